//! Whatever bytes a peer sends, its node answers: with what they mean, or with why not; and takes no more memory than they are
//! worth. Each message's decoder on its own, and every method of a node that runs, by a caller whose proof is good.
#![allow(unsafe_code, reason = "a global allocator cannot be written without it")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod net;
mod toy;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::{Buf, BufMut, Bytes};
use featureops_cluster::members::Change;
use featureops_cluster::peer::caller::{METADATA, Purpose, check, write};
use featureops_cluster::peer::wire;
use featureops_cluster::raft::types::StoredMembership;
use featureops_cluster::raft::{Identity, record};
use featureops_cluster::{Cluster, PeerKey};
use featureops_proto::log::{Batch, BatchReply, Reply};
use featureops_proto::peer::{
    AppendRequest, AppendResponse, Ballot, BarrierResponse, Caller, ChangeRequest, ChangeResponse,
    EntrustRequest, ForwardRequest, ForwardResponse, HelloResponse, IngestRequest, IngestResponse,
    InstallBegin, InstallRequest, InstallResponse, LogEntry, Position, SecretResponse, TransferRequest,
    VoteRequest, VoteResponse, change_request,
};
use featureops_state::State;
use hyper_util::rt::TokioIo;
use net::{Machine, Net, address_of, entry};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use toy::Toy;

struct Counting;

thread_local! {
    /// Bytes held by this thread, and the most of them since they were looked at.
    static HELD: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

fn held(change: i64) {
    // Ignored while the thread is being torn down.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + change, most.max(now + change)));
    });
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        held(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        held(-(layout.size() as i64));
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both stand for a moment.
        held(size as i64);
        let moved = unsafe { System.realloc(pointer, layout, size) };
        held(-(layout.size() as i64));
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held at once.
fn most_held(work: impl FnOnce()) -> i64 {
    let (before, _) = HELD.get();
    HELD.set((before, before));
    work();
    HELD.get().1 - before
}

/// Bytes that one byte of a message may take: an empty entry in a list is two of them, and its struct some dozens, twice while
/// the list grows. Of a command it is the largest message that a list repeats, a flag with all of its parts.
const PEER_WORTH: i64 = 128;
const COMMAND_WORTH: i64 = 4_096;
const SOME: i64 = 64 << 10;

fn within(what: &str, worth: i64, bytes: &[u8], work: impl FnOnce()) {
    let most = most_held(work);
    let bound = SOME + worth * bytes.len() as i64;
    assert!(most <= bound, "{what}: {} bytes held {most}, over {bound}", bytes.len());
}

fn requests(bytes: &[u8]) {
    if let Ok(request) = VoteRequest::decode(bytes) {
        let _ = wire::raft_vote_request(request);
    }
    if let Ok(request) = AppendRequest::decode(bytes) {
        let _ = wire::raft_append_request(request);
    }
    if let Ok(InstallRequest { begin: Some(begin), .. }) = InstallRequest::decode(bytes) {
        let _ = (
            wire::vote(begin.vote),
            begin.last.map(wire::log_id),
            record::decode_membership(&begin.membership),
        );
    }
    if let Ok(request) = TransferRequest::decode(bytes) {
        let _ = wire::vote(request.from);
    }
    if let Ok(request) = ChangeRequest::decode(bytes) {
        let _ = Change::read(&request);
    }
    let _ = (ForwardRequest::decode(bytes).is_ok(), EntrustRequest::decode(bytes).is_ok());
    // As the handler: more of them are refused as they are.
    if let Ok(request) = IngestRequest::decode(bytes)
        && request.batches.len() <= 4_096
    {
        let _ = request.batches.into_iter().map(Batch::decode).collect::<Result<Vec<_>, _>>();
    }
    let _ = record::decode_membership(bytes);
}

fn answers(bytes: &[u8]) {
    if let Ok(answer) = VoteResponse::decode(bytes) {
        let _ = wire::raft_vote_response(answer);
    }
    if let Ok(answer) = AppendResponse::decode(bytes) {
        let _ = wire::raft_append_response(answer);
    }
    if let Ok(answer) = InstallResponse::decode(bytes) {
        let _ = wire::vote(answer.vote);
    }
    let _ = (HelloResponse::decode(bytes).is_ok(), ForwardResponse::decode(bytes).is_ok());
    let _ = (IngestResponse::decode(bytes).is_ok(), BarrierResponse::decode(bytes).is_ok());
    let _ = (ChangeResponse::decode(bytes).is_ok(), SecretResponse::decode(bytes).is_ok());
    let _ = (BatchReply::decode(bytes).is_ok(), Reply::decode(bytes).is_ok());
}

fn called(bytes: &[u8]) {
    let own = Identity { cluster: 7, node: 2, incarnation: 20 };
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(METADATA, MetadataValue::from_bytes(bytes));
    for key in [None, Some(PeerKey::new([1; 32]))] {
        for purpose in [Purpose::Raft, Purpose::Write] {
            // Bytes by chance are no proof.
            let checked = check(&metadata, &own, purpose, key.as_ref());
            assert!(key.is_none() || checked.is_err());
        }
        let _ = check(&metadata, &own, Purpose::Join, key.as_ref());
    }
}

fn all(bytes: &[u8]) {
    within("requests", PEER_WORTH, bytes, || requests(bytes));
    within("answers", PEER_WORTH, bytes, || answers(bytes));
    within("callers", PEER_WORTH, bytes, || called(bytes));
    within("commands", COMMAND_WORTH, bytes, || drop(State::inspect(bytes)));
}

fn append() -> AppendRequest {
    let record = record::encode(openraft::Entry {
        log_id: wire::log_id(Position { term: 3, index: 7 }),
        payload: openraft::EntryPayload::Blank,
    });
    AppendRequest {
        vote: Some(Ballot { term: 3, node: 1, committed: true }),
        previous: Some(Position { term: 3, index: 6 }),
        entries: vec![LogEntry { term: 3, index: 7, record: record.payload }],
        committed: Some(Position { term: 3, index: 6 }),
    }
}

fn begin() -> InstallRequest {
    let membership = openraft::Membership::new_with_defaults(vec![[1, 2].into(), [2, 3].into()], []);
    let begin = InstallBegin {
        vote: Some(Ballot { term: 3, node: 1, committed: true }),
        last: Some(Position { term: 3, index: 9 }),
        membership: record::encode_membership(&StoredMembership::new(
            Some(wire::log_id(Position { term: 3, index: 2 })),
            membership,
        )),
        length: 1 << 20,
        crc32: 7,
    };
    InstallRequest { begin: Some(begin), ..InstallRequest::default() }
}

/// Bytes that begin well: what a decoder refuses at once, it never looks into.
fn good() -> Vec<Vec<u8>> {
    let caller =
        Caller { cluster: 7, node: 1, incarnation: 10, level: 2, proof: vec![3; 32], ..Caller::default() };
    vec![
        append().encode_to_vec(),
        begin().encode_to_vec(),
        VoteRequest { vote: append().vote, last: append().previous, ..VoteRequest::default() }
            .encode_to_vec(),
        ChangeRequest { change: Some(change_request::Change::Remove(3)) }.encode_to_vec(),
        EntrustRequest { peer_key: vec![1; 32] }.encode_to_vec(),
        IngestRequest { batches: vec![Batch::default().encode_to_vec().into(); 3] }.encode_to_vec(),
        caller.encode_to_vec(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_096, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        all(&bytes);
    }

    #[test]
    fn good_bytes_gone_bad_never_panic(
        which in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let good = good();
        let mut bytes = which.get(&good).clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        all(&bytes);
        all(&bytes[..cut.index(bytes.len())]);
    }
}

#[test]
fn a_length_that_is_only_claimed_takes_nothing_and_lists_of_nothing_take_what_they_are_worth() {
    // Field 3, of which 2 GiB are said to come.
    all(&[0x1a, 0xff, 0xff, 0xff, 0xff, 0x07]);
    for field in [0x0a, 0x12, 0x1a, 0x22, 0x2a, 0x32, 0x82] {
        let pairs: Vec<u8> = [field, 0].repeat(1 << 16);
        all(&pairs);
    }
}

/// gRPC messages as they are, undecoded.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Calls a method with messages as they are, and hears it out, a bounded time; whatever comes of it is an answer.
async fn call(channel: &Channel, caller: &Caller, method: &str, messages: Vec<Bytes>) {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::iter(messages));
    write(caller, request.metadata_mut());
    let path = format!("/featureops.peer.v1.PeerService/{method}").parse().unwrap();
    let heard = async {
        if let Ok(answers) = grpc.streaming(request, path, Raw).await {
            let mut answers = answers.into_inner();
            while let Ok(Some(_)) = answers.message().await {}
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), heard).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_sent_anything_by_a_member_goes_on() {
    let net = Net::default();
    let machine = Machine::new(&net, 1);
    let cluster: Cluster<Toy> = machine.start(&[]).await;
    cluster.ready(5_000).await.unwrap();
    cluster.propose(entry("before")).await.unwrap();
    let transport = Machine::new(&net, 77).environment().transport;
    let connector = tower::service_fn(move |_| {
        let transport = transport.clone();
        async move { transport.connect(address_of(1).to_string()).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://peer").connect_with_connector(connector).await.unwrap();
    let health = cluster.health();
    let mut caller = Caller {
        cluster: health.cluster,
        node: 2,
        incarnation: 5,
        level: 2,
        to_node: 1,
        to_incarnation: health.incarnation,
        proof: Vec::new(),
    };
    caller.proof = machine.key.0.lock().clone().unwrap().proof(&caller);

    let methods = [
        "Hello", "Vote", "Append", "Install", "Forward", "Ingest", "Barrier", "Transfer", "Change", "Secret",
        "Entrust",
    ];
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        chance
    };
    for round in 0..30 {
        for method in methods {
            let length = (next() % 200) as usize;
            let bytes: Bytes = (0..length).map(|_| next() as u8).collect();
            // Undecodable as they mostly are; then one that begins well, of which a byte is another.
            let mut near = good()[(next() % 7) as usize].clone();
            // A term by chance would be the last one there can be: terms are what a member may say.
            let at = near.len() / 2 + (next() as usize % (near.len() / 2).max(1)).min(near.len() / 2 - 1);
            near[at] ^= 1 << (round % 8);
            let known = !matches!(method, "Vote" | "Append" | "Transfer");
            let messages = if known { vec![bytes, near.into()] } else { vec![bytes] };
            for message in messages {
                call(&channel, &caller, method, vec![message]).await;
            }
        }
    }
    // Streams whose messages are well formed and do not fit together.
    let mut far = begin();
    far.begin.as_mut().unwrap().length = u64::MAX;
    let mut none = begin();
    none.begin.as_mut().unwrap().vote = None;
    let piece = |offset, piece: &'static [u8], crc32| InstallRequest {
        begin: None,
        offset,
        piece: Bytes::from_static(piece),
        crc32,
    };
    let damaged = piece(0, b"x", 0);
    let beyond = piece(1 << 40, b"x", crc32fast::hash(b"x"));
    let empty = piece(0, b"", 0);
    for stream in [
        vec![far],
        vec![none],
        vec![damaged.clone()],
        vec![begin(), damaged],
        vec![begin(), beyond],
        vec![begin(), empty],
    ] {
        let messages = stream.iter().map(|message| message.encode_to_vec().into()).collect();
        call(&channel, &caller, "Install", messages).await;
    }
    let batches = IngestRequest { batches: vec![Bytes::from_static(&[0xff; 9])] };
    call(&channel, &caller, "Ingest", vec![batches.encode_to_vec().into()]).await;
    let many = IngestRequest { batches: vec![Bytes::new(); 5_000] };
    call(&channel, &caller, "Ingest", vec![many.encode_to_vec().into()]).await;

    cluster.propose(entry("after")).await.unwrap();
    let health = cluster.health();
    assert!(health.leads && health.halted.is_none() && health.stopped.is_none(), "{health:?}");
    assert!(cluster.read(|toy| toy.entries.len()) >= 2);
    cluster.shutdown().await;
}
