//! HTTP/1.1 by hand: one request, one answer, one connection. Also whatever bytes a test wants to send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status code; 0 when what came was no HTTP.
    pub status: u16,
    /// Everything after the headers.
    pub body: String,
}

/// Sends bytes, and reads until the other side closes or the time is over.
///
/// # Errors
/// No connection, or one that broke before anything came.
pub async fn exchange(port: u16, bytes: &[u8], patience: Duration) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let work = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        // A server that refuses a body early closes while we still write: its answer counts, not our broken pipe.
        let written = stream.write_all(bytes).await;
        let mut limited = stream.take(ANSWER_BYTES_MAX);
        let mut block = vec![0; 1 << 16];
        loop {
            match limited.read(&mut block).await {
                Ok(0) => return Ok(()),
                Ok(length) => answer.extend_from_slice(&block[..length]),
                Err(_) if !answer.is_empty() => return Ok(()),
                Err(error) => return written.and(Err(error)),
            }
        }
    };
    match tokio::time::timeout(patience, work).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Ok(answer),
    }
}

/// One request.
///
/// # Errors
/// No connection, or no answer within ten seconds.
pub async fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    let raw = exchange(port, &bytes, Duration::from_secs(10)).await?;
    let text = String::from_utf8_lossy(&raw).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok(Answer { status, body })
}

/// `GET path`.
///
/// # Errors
/// As [`request`].
pub async fn get(port: u16, path: &str) -> std::io::Result<Answer> {
    request(port, "GET", path, "", b"").await
}
