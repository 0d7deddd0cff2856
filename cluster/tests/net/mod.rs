//! A network in memory whose links can be cut, each way by itself, and nodes on it.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use featureops_cluster::environment::{
    BoxFuture, BoxStream, Clock, Entropy, Environment, Inline, Listener, SystemClock, Transport,
};
use featureops_cluster::storage::memory::MemoryDisk;
use featureops_cluster::{
    Change, ChangeError, Cluster, Fold, Health, Member, MemberHealth, NoSink, Options, PeerKey, PeerKeyStore,
    PeerKeys, PeerListener,
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

#[derive(Default)]
struct Wires {
    doors: BTreeMap<String, mpsc::UnboundedSender<(BoxStream, SocketAddr)>>,
    /// Ways on which nothing arrives.
    cut: BTreeSet<(u64, u64)>,
    wakers: Vec<Waker>,
    /// Streams made between two epochs of a way are dead.
    epoch: u64,
    broken: BTreeMap<u64, u64>,
}

/// The network.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<Wires>>);

impl Net {
    /// From now on nothing of `from` arrives at `to`.
    pub fn cut(&self, from: u64, to: u64) {
        self.0.lock().cut.insert((from, to));
    }

    /// Cuts a node off, both ways.
    pub fn isolate(&self, node: u64, others: impl IntoIterator<Item = u64>) {
        for other in others {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Everything arrives again, also what was sent meanwhile.
    pub fn heal(&self) {
        let mut wires = self.0.lock();
        wires.cut.clear();
        wires.wakers.drain(..).for_each(Waker::wake);
    }

    /// Another name of a node's address.
    pub fn alias(&self, name: &str, node: u64) {
        let mut wires = self.0.lock();
        let door = wires.doors[&address_of(node).to_string()].clone();
        wires.doors.insert(name.to_owned(), door);
    }

    /// Every stream of a node breaks, and new ones are taken.
    pub fn reset(&self, node: u64) {
        let mut wires = self.0.lock();
        wires.epoch += 1;
        let epoch = wires.epoch;
        wires.broken.insert(node, epoch);
        wires.wakers.drain(..).for_each(Waker::wake);
    }
}

/// One end of a stream: what it reads is what the other end sent, if the way is open.
struct End {
    net: Net,
    from: u64,
    own: u64,
    epoch: u64,
    stream: DuplexStream,
}

impl End {
    fn is_broken(wires: &Wires, nodes: [u64; 2], epoch: u64) -> bool {
        nodes.iter().any(|node| wires.broken.get(node).is_some_and(|broken| *broken > epoch))
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        {
            let mut wires = self.net.0.lock();
            wires.wakers.push(cx.waker().clone());
            if Self::is_broken(&wires, [self.from, self.own], self.epoch) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if wires.cut.contains(&(self.from, self.own)) {
                return Poll::Pending;
            }
            if wires.wakers.len() > 10_000 {
                wires.wakers.drain(..).for_each(Waker::wake);
            }
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if Self::is_broken(&self.net.0.lock(), [self.from, self.own], self.epoch) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// One node's way to the network.
pub struct Card {
    net: Net,
    node: u64,
}

struct Door {
    incoming: tokio::sync::Mutex<mpsc::UnboundedReceiver<(BoxStream, SocketAddr)>>,
    address: SocketAddr,
}

impl Listener for Door {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let taken = self.incoming.lock().await.recv().await;
            taken.ok_or_else(|| io::ErrorKind::NotConnected.into())
        })
    }
    fn address(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Transport for Card {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.net.0.lock().doors.insert(address.to_string(), sender);
            let incoming = tokio::sync::Mutex::new(receiver);
            Ok(Box::new(Door { incoming, address }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let to = address.rsplit(':').next().unwrap().parse::<u64>().unwrap() - 9_000;
            let (here, there) = tokio::io::duplex(1 << 20);
            let epoch = {
                let wires = self.net.0.lock();
                if wires.cut.contains(&(self.node, to)) || wires.cut.contains(&(to, self.node)) {
                    return Err(io::ErrorKind::HostUnreachable.into());
                }
                wires.epoch
            };
            let net = &self.net;
            let there = End { net: net.clone(), from: self.node, own: to, epoch, stream: there };
            let here = End { net: net.clone(), from: to, own: self.node, epoch, stream: here };
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let door = self.net.0.lock().doors.get(&address).cloned().ok_or_else(refused)?;
            door.send((Box::new(there), address_of(self.node))).map_err(|_| refused())?;
            Ok(Box::new(here) as BoxStream)
        })
    }
}

pub fn address_of(node: u64) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9_000 + node as u16))
}

#[derive(Default)]
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(13, Ordering::SeqCst) as u8;
        }
    }
}

/// The system's clock, ahead by so many milliseconds.
pub struct Watch {
    clock: SystemClock,
    pub ahead_ms: AtomicI64,
}

impl Clock for Watch {
    fn unix_ms(&self) -> i64 {
        self.clock.unix_ms() + self.ahead_ms.load(Ordering::SeqCst)
    }
    fn monotonic_ms(&self) -> u64 {
        self.clock.monotonic_ms()
    }
}

/// A file that holds a peer key, in memory.
#[derive(Clone, Default)]
pub struct KeyFile(pub Arc<Mutex<Option<PeerKey>>>);

impl KeyFile {
    pub fn id(&self) -> Option<u64> {
        self.0.lock().as_ref().map(PeerKey::id)
    }
}

impl PeerKeyStore for KeyFile {
    fn read_peer_key(&self) -> io::Result<Option<PeerKey>> {
        Ok(self.0.lock().clone())
    }

    fn keep_peer_key(&self, key: &PeerKey) -> io::Result<()> {
        *self.0.lock() = Some(key.clone());
        Ok(())
    }
}

/// A machine: its disk and its clock outlive what runs on it.
#[derive(Clone)]
pub struct Machine {
    pub node: u64,
    pub disk: MemoryDisk,
    pub clock: Arc<Watch>,
    pub key: KeyFile,
    pub net: Net,
    salt: u64,
}

impl Machine {
    pub fn new(net: &Net, node: u64) -> Self {
        let clock = Arc::new(Watch { clock: SystemClock::start(), ahead_ms: AtomicI64::new(0) });
        Self {
            node,
            disk: MemoryDisk::default(),
            clock,
            key: KeyFile::default(),
            net: net.clone(),
            salt: node,
        }
    }

    /// The same machine with an empty disk.
    pub fn emptied(&self) -> Self {
        let key = KeyFile::default();
        Self { disk: MemoryDisk::default(), key, salt: self.salt + 100, ..self.clone() }
    }

    pub fn environment(&self) -> Environment {
        Environment {
            clock: self.clock.clone(),
            entropy: Arc::new(Counter(AtomicU64::new(self.salt * 7))),
            storage: Arc::new(self.disk.clone()),
            transport: Arc::new(Card { net: self.net.clone(), node: self.node }),
            compute: Arc::new(Inline),
        }
    }

    pub async fn options(&self, join: &[u64]) -> Options {
        let address = address_of(self.node);
        let listener = self.environment().transport.listen(address).await.unwrap();
        Options {
            initialize: join.is_empty(),
            join: join.iter().map(|node| address_of(*node).to_string()).collect(),
            listener: Some(PeerListener(Arc::from(listener))),
            peer_keys: Some(PeerKeys(Arc::new(self.key.clone()))),
            tick_ms: 200,
            ..Options::new(self.node, address.to_string())
        }
    }

    pub async fn start<F: Fold + Default>(&self, join: &[u64]) -> Cluster<F> {
        let options = self.options(join).await;
        self.start_with(options).await
    }

    pub async fn start_with<F: Fold + Default>(&self, options: Options) -> Cluster<F> {
        Cluster::start(self.environment(), options, F::default(), Arc::new(NoSink)).await.unwrap()
    }

    pub async fn member<F: Fold + Default>(&self, join: &[u64]) -> Member<F> {
        let options = self.options(join).await;
        Member::start(self.environment(), options, F::default(), Arc::new(NoSink)).await.unwrap()
    }
}

pub fn entry(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Waits until `reached`, thirty seconds at most.
pub async fn eventually(what: &str, reached: impl Fn() -> bool) {
    for _ in 0..3_000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within thirty seconds: {what}");
}

pub fn member(health: &Health, node: u64) -> Option<MemberHealth> {
    health.members.iter().find(|member| member.node == node).cloned()
}

/// Promotes, as soon as the learner has caught up.
pub async fn promote<F: Fold>(cluster: &Cluster<F>, node: u64) {
    for _ in 0..500 {
        match cluster.change(&Change::Promote(node)).await {
            Ok(_) => return,
            Err(ChangeError::Refused { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("node {node} never caught up");
}

/// A cluster of so many voters, the first of them its founder.
pub async fn voters<F: Fold + Default>(net: &Net, count: u64) -> (Vec<Machine>, Vec<Cluster<F>>) {
    let machines: Vec<Machine> = (1..=count).map(|node| Machine::new(net, node)).collect();
    let mut clusters: Vec<Cluster<F>> = vec![machines[0].start(&[]).await];
    clusters[0].ready(5_000).await.unwrap();
    for machine in &machines[1..] {
        let cluster = machine.start(&[1]).await;
        cluster.ready(10_000).await.unwrap();
        promote(&clusters[0], machine.node).await;
        clusters.push(cluster);
    }
    (machines, clusters)
}

/// The node that leads by the word of a majority of `clusters`.
pub async fn leader<F: Fold>(clusters: &[&Cluster<F>]) -> u64 {
    for _ in 0..3_000 {
        let leading = clusters.iter().map(|cluster| cluster.health()).find(|health| health.leads);
        if let Some(leading) = leading {
            let same =
                clusters.iter().filter(|cluster| cluster.health().leader == Some(leading.node)).count();
            if same == clusters.len() {
                return leading.node;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody leads");
}
