//! A machine's end of the wires: turmoil's streams, which may be reset under whoever holds them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use featureops_cluster::environment::{BoxFuture, BoxStream, Listener, Transport};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Default)]
struct Streams {
    resets: u64,
    opened: u64,
    /// Who waits on a stream, by its number; gone with the stream.
    waiting: BTreeMap<u64, Waker>,
}

/// Every stream that one machine opened or took, to be reset at once. Clones share them.
#[derive(Clone, Default)]
pub struct Resets(Arc<Mutex<Streams>>);

impl Resets {
    /// Resets every stream there is; later ones are whole.
    pub fn reset(&self) {
        let waiting = {
            let mut streams = self.0.lock();
            streams.resets = streams.resets.saturating_add(1);
            std::mem::take(&mut streams.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    fn wire(&self, stream: turmoil::net::TcpStream) -> BoxStream {
        let mut streams = self.0.lock();
        streams.opened = streams.opened.saturating_add(1);
        let (number, began) = (streams.opened, streams.resets);
        Box::new(Wire { stream, resets: self.clone(), number, began })
    }
}

struct Wire {
    stream: turmoil::net::TcpStream,
    resets: Resets,
    number: u64,
    /// Resets when it was opened.
    began: u64,
}

impl Wire {
    /// An error once it is reset; else the waker is kept for that.
    fn check(&self, waker: &Waker) -> io::Result<()> {
        let mut streams = self.resets.0.lock();
        if streams.resets != self.began {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        match streams.waiting.get_mut(&self.number) {
            Some(held) => held.clone_from(waker),
            None => drop(streams.waiting.insert(self.number, waker.clone())),
        }
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.resets.0.lock().waiting.remove(&self.number);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context.waker())?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context.waker())?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The transport of one machine.
pub struct Net {
    resets: Resets,
}

impl Net {
    /// With streams that `resets` resets.
    #[must_use]
    pub fn of(resets: Resets) -> Self {
        Self { resets }
    }
}

struct NetListener {
    listener: turmoil::net::TcpListener,
    resets: Resets,
}

impl Listener for NetListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            Ok((self.resets.wire(stream), peer))
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Transport for Net {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            // A simulated machine has one address. Its clients and peers live on other machines, which the wire between them is
            // there to be cut.
            let address = SocketAddr::from(([0, 0, 0, 0], address.port()));
            let listener = turmoil::net::TcpListener::bind(address).await?;
            Ok(Box::new(NetListener { listener, resets: self.resets.clone() }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect(address).await?;
            Ok(self.resets.wire(stream))
        })
    }
}
