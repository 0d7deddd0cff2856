//! A peer that speaks HTTP/2 frame by frame, as no well-meant client does.
#![allow(dead_code, reason = "each story uses a part")]

use axum::body::Bytes;
use axum::http::{HeaderMap, Request, Response};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use tokio::net::TcpStream;

use crate::world::World;

/// One connection.
pub struct Peer {
    requests: SendRequest<Bytes>,
    /// Ends with what the connection ended with.
    pub connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
    authority: String,
}

/// One stream of it.
pub struct Stream {
    sends: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Peer {
    pub async fn connect(world: &World) -> Self {
        Self::connect_with(world, &Builder::new()).await
    }

    pub async fn connect_with(world: &World, builder: &Builder) -> Self {
        let address = world.node.local_addr();
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (requests, connection) = builder.handshake(socket).await.unwrap();
        Self { requests, connection: tokio::spawn(connection), authority: address.to_string() }
    }

    pub async fn open(&mut self, path: &str) -> Stream {
        self.open_with(path, &[]).await
    }

    /// With headers of its own; one of a name replaces the usual.
    pub async fn open_with(&mut self, path: &str, headers: &[(&'static str, &str)]) -> Stream {
        self.ask("POST", path, headers, false).await
    }

    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        ended: bool,
    ) -> Stream {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let mut ready = self.requests.clone().ready().await.unwrap();
        let (response, sends) = ready.send_request(request, ended).unwrap();
        Stream { sends, response }
    }
}

impl Stream {
    /// Sends as fast as the node takes it, without waiting.
    pub fn send(&mut self, bytes: impl Into<Bytes>) {
        self.sends.send_data(bytes.into(), false).unwrap();
    }

    /// The same as one message, and the last.
    pub fn send_last(&mut self, message: &[u8]) {
        self.sends.send_data(framed(message).into(), true).unwrap();
    }

    pub fn end(&mut self) {
        self.sends.send_data(Bytes::new(), true).unwrap();
    }

    /// The response's head.
    pub async fn head(&mut self) -> Result<Response<RecvStream>, h2::Error> {
        (&mut self.response).await
    }

    /// gRPC's code, from headers or trailers; none of a stream that was reset.
    pub async fn status(&mut self) -> Option<i32> {
        let response = self.head().await.ok()?;
        let (head, body) = response.into_parts();
        match status_of(&head.headers) {
            Some(status) => Some(status),
            None => rest(body).await.ok()?.1,
        }
    }
}

/// All that is still to come of a response: its bytes and gRPC's code.
pub async fn rest(mut body: RecvStream) -> Result<(Vec<u8>, Option<i32>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?;
    Ok((bytes, trailers.as_ref().and_then(status_of)))
}

pub fn status_of(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// gRPC's framing of a message.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}
