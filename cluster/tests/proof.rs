//! Who is believed: members by their proof, newcomers by a token, and nobody by their word once there is a key.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod net;
mod toy;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use featureops_cluster::peer::caller::{METADATA, write};
use featureops_cluster::peer::rpc::peer_service_client::PeerServiceClient;
use featureops_cluster::{Change, Cluster, JoinToken, Newcomer, Options, PeerKey, PeerKeys};
use featureops_proto::log::{self, Entry, Initialize, ReceiptKey, Reply, entry, reply};
use featureops_proto::peer::{
    Admit, Ballot, Caller, ChangeRequest, EntrustRequest, ForwardRequest, HelloRequest, SecretRequest,
    VoteRequest, change_request, change_response,
};
use featureops_proto::timestamp;
use featureops_proto::v1::token::Role;
use featureops_proto::v1::{Principal, Token, principal};
use featureops_state::State;
use hyper_util::rt::TokioIo;
use net::{KeyFile, Machine, Net, address_of, entry, eventually, leader, member, promote, voters};
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use toy::Toy;

/// Whoever is on the network and speaks the protocol.
async fn stranger(net: &Net, to: u64) -> PeerServiceClient<Channel> {
    let transport = Machine::new(net, 77).environment().transport;
    let address = address_of(to).to_string();
    let connector = tower::service_fn(move |_| {
        let (transport, address) = (transport.clone(), address.clone());
        async move { transport.connect(address).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://peer").connect_with_connector(connector).await.unwrap();
    PeerServiceClient::new(channel)
}

fn as_caller<T>(caller: &Caller, message: T) -> Request<T> {
    let mut request = Request::new(message);
    write(caller, request.metadata_mut());
    request
}

/// What a member says of itself, by what anybody on the network can learn.
fn in_the_name_of(from: &Cluster<Toy>, to: &Cluster<Toy>) -> Caller {
    let (from, to) = (from.health(), to.health());
    Caller {
        cluster: from.cluster,
        node: from.node,
        incarnation: from.incarnation,
        level: 2,
        to_node: to.node,
        to_incarnation: to.incarnation,
        proof: Vec::new(),
    }
}

fn refused(status: Result<impl std::fmt::Debug, Status>, part: &str) {
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains(part), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_in_a_members_name_without_its_key_votes_writes_and_learns_nothing() {
    let net = Net::default();
    let (machines, clusters) = voters::<Toy>(&net, 3).await;
    let id = machines[0].key.id().unwrap();
    assert!(machines.iter().all(|machine| machine.key.id() == Some(id)), "all hold the founder's key");
    clusters[0].propose(entry("kept")).await.unwrap();
    let term = clusters[0].health().term;
    let other = PeerKey::new([9; 32]);
    for to in 0..3 {
        let from = &clusters[(to + 1) % 3];
        let mut client = stranger(&net, to as u64 + 1).await;
        let bare = in_the_name_of(from, &clusters[to]);
        let wrong = Caller { proof: other.proof(&bare), ..bare.clone() };
        // A proof that was good for another node is none here.
        let good = machines[0].key.0.lock().clone().unwrap();
        let elsewhere = in_the_name_of(from, &clusters[(to + 2) % 3]);
        let replayed = Caller { proof: good.proof(&elsewhere), ..bare.clone() };
        for (caller, part) in
            [(bare.clone(), "no proof"), (wrong, "another peer key"), (replayed, "another peer key")]
        {
            let vote = VoteRequest {
                vote: Some(Ballot { term: 99, node: 1, committed: false }),
                ..VoteRequest::default()
            };
            refused(client.vote(as_caller(&caller, vote)).await, part);
            let forward = ForwardRequest { entry: Bytes::from_static(b"forged") };
            refused(client.forward(as_caller(&caller, forward)).await, part);
            refused(client.secret(as_caller(&caller, SecretRequest {})).await, part);
            refused(client.barrier(as_caller(&caller, Default::default())).await, part);
            refused(client.ingest(as_caller(&caller, Default::default())).await, part);
            refused(client.transfer(as_caller(&caller, Default::default())).await, part);
            let remove = ChangeRequest { change: Some(change_request::Change::Remove(2)) };
            refused(client.change(as_caller(&caller, remove)).await, part);
            let stream = tokio_stream::iter(Vec::new());
            refused(client.append(as_caller(&caller, stream)).await.map(drop), part);
            let stream = tokio_stream::iter(Vec::new());
            refused(client.install(as_caller(&caller, stream)).await.map(drop), part);
            let entrust = EntrustRequest { peer_key: vec![9; 32] };
            refused(client.entrust(as_caller(&caller, entrust)).await, "holds peer key");
        }
        // Who is there is told to anybody; the key only by its name.
        let said = client.hello(as_caller(&bare, HelloRequest {})).await.unwrap().into_inner();
        assert_eq!(said.peer_key_id, id);
        assert!(client.hello(Request::new(HelloRequest {})).await.unwrap_err().message().contains(METADATA));
    }
    assert_eq!(clusters[0].health().term, term, "nobody was made to vote");
    for cluster in &clusters {
        assert_eq!(cluster.read(|toy| toy.entries.len()), 1);
        assert_eq!(cluster.health().members.len(), 3);
    }
    // Nobody moves a member, the leader among them, to an address of their own, by its number and incarnation alone.
    let leads = leader(&[&clusters[0], &clusters[1], &clusters[2]]).await;
    for node in 1..=3_u64 {
        let health = clusters[node as usize - 1].health();
        let caller = Caller { node, incarnation: health.incarnation, level: 2, ..Caller::default() };
        let admit = Admit {
            node,
            incarnation: health.incarnation,
            address: address_of(77).to_string(),
            ..Admit::default()
        };
        let change = ChangeRequest { change: Some(change_request::Change::Admit(admit)) };
        let answer = stranger(&net, leads).await.change(as_caller(&caller, change)).await;
        match answer.map(|answer| answer.into_inner().outcome) {
            Ok(Some(change_response::Outcome::Refused(why))) => {
                assert!(why.contains("does not prove"), "{why}");
            }
            // The leader is not called in its own name.
            Err(status) => assert_eq!((node, status.code()), (leads, Code::FailedPrecondition), "{status}"),
            other => panic!("node {node}: {other:?}"),
        }
        let known = member(&clusters[leads as usize - 1].health(), node).unwrap().address.clone();
        assert_eq!(known, address_of(node).to_string());
    }
    // Who was removed has the key still, and writes nothing with it.
    let gone = if leads == 3 { 2 } else { 3_u64 };
    clusters[leads as usize - 1].change(&Change::Remove(gone)).await.unwrap();
    let to = &clusters[leads as usize - 1];
    let bare = in_the_name_of(&clusters[gone as usize - 1], to);
    let good = machines[0].key.0.lock().clone().unwrap();
    let proven = Caller { proof: good.proof(&bare), ..bare };
    let forward = ForwardRequest { entry: entry("late") };
    let status = stranger(&net, leads).await.forward(as_caller(&proven, forward)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("is no member"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_key_is_told_and_works_again_with_the_file_put_back() {
    let net = Net::default();
    let (machines, clusters) = voters::<Toy>(&net, 3).await;
    let all: Vec<_> = clusters.iter().collect();
    if leader(&all).await == 3 {
        clusters[0].change(&Change::Transfer(1)).await.unwrap();
    }
    clusters[2].shutdown().await;
    let key = machines[2].key.0.lock().take();
    // Where tokens are asked for nobody is entrusted with it again; the toy asks for none, so it is.
    let third: Cluster<Toy> = machines[2].start(&[1, 2]).await;
    eventually("the key is back", || machines[2].key.id() == machines[0].key.id()).await;
    third.propose(entry("again")).await.unwrap();
    third.shutdown().await;
    // Another cluster's key: refused, and it says so.
    *machines[2].key.0.lock() = Some(PeerKey::new([5; 32]));
    let third: Cluster<Toy> = machines[2].start(&[1, 2]).await;
    let why = || {
        let members = clusters.iter().flat_map(|cluster| cluster.health().members);
        members.filter_map(|member| member.fault).find(|fault| fault.contains("another peer key"))
    };
    eventually("it is said who has which key", || why().is_some()).await;
    assert!(why().unwrap().contains("copy peer.key"), "{:?}", why());
    assert!(third.propose(entry("no")).await.is_err());
    third.shutdown().await;
    *machines[2].key.0.lock() = key;
    let third: Cluster<Toy> = machines[2].start(&[1, 2]).await;
    third.ready(10_000).await.unwrap();
    third.propose(entry("with its own")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_before_there_were_keys_goes_on_and_gets_one_when_all_are_there() {
    let net = Net::default();
    let machines: Vec<Machine> = (1..=3).map(|node| Machine::new(&net, node)).collect();
    let before = async |machine: &Machine, join: &[u64]| {
        let options = Options { peer_keys: None, ..machine.options(join).await };
        machine.start_with::<Toy>(options).await
    };
    let mut old = vec![before(&machines[0], &[]).await];
    old[0].ready(5_000).await.unwrap();
    for machine in &machines[1..] {
        let cluster = before(machine, &[1]).await;
        cluster.ready(10_000).await.unwrap();
        promote(&old[0], machine.node).await;
        old.push(cluster);
    }
    old[1].propose(entry("before")).await.unwrap();
    for cluster in &old {
        cluster.shutdown().await;
    }
    // Two of three: they go on as they were, and nothing is made behind the third one's back.
    let mut clusters: Vec<Cluster<Toy>> = Vec::new();
    for machine in &machines[..2] {
        clusters.push(machine.start(&[1, 2, 3]).await);
    }
    leader(&clusters.iter().collect::<Vec<_>>()).await;
    clusters[0].propose(entry("two")).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert!(machines.iter().all(|machine| machine.key.id().is_none()));
    assert!(clusters.iter().all(|cluster| !cluster.health().peer_key));
    clusters.push(machines[2].start(&[1, 2]).await);
    eventually("one key for all", || {
        machines[0].key.id().is_some()
            && machines.iter().all(|machine| machine.key.id() == machines[0].key.id())
    })
    .await;
    eventually("proofs", || clusters.iter().all(|cluster| cluster.health().peer_key)).await;
    leader(&clusters.iter().collect::<Vec<_>>()).await;
    for cluster in &clusters {
        cluster.propose(entry("after")).await.unwrap();
    }
    let mut client = stranger(&net, 1).await;
    let bare = in_the_name_of(&clusters[1], &clusters[0]);
    refused(client.barrier(as_caller(&bare, Default::default())).await, "no proof");
    // A folder of one node alone gets one, too.
    let alone = Machine::new(&Net::default(), 9);
    let cluster = before(&alone, &[]).await;
    cluster.ready(5_000).await.unwrap();
    cluster.shutdown().await;
    let cluster: Cluster<Toy> = alone.start(&[]).await;
    eventually("a key", || alone.key.id().is_some() && cluster.health().peer_key).await;
}

/// Set once in a test's log, as an admin would.
fn human() -> Principal {
    Principal { kind: principal::Kind::Human.into(), id: "root".into(), verified: true }
}

async fn does(cluster: &Cluster<State>, command: entry::Command) -> Reply {
    let entry = Entry { principal: Some(human()), command: Some(command), ..Entry::default() };
    cluster.propose(entry.encode_to_vec().into()).await.unwrap().1
}

/// Makes a token; answers with its secret.
async fn token(cluster: &Cluster<State>, id: &str, role: Role, ends_ms: Option<i64>) -> String {
    let key_id = format!("{:016x}", id.bytes().fold(7_u64, |sum, byte| sum * 31 + u64::from(byte)));
    let secret = format!("fo_{key_id}_{}", "ab".repeat(32));
    let made = log::CreateToken {
        token: Some(Token {
            name: format!("tokens/{id}"),
            roles: vec![role.into()],
            expire_time: ends_ms.map(timestamp),
            ..Token::default()
        }),
        secret_hash: Sha256::digest(secret.as_bytes()).to_vec(),
        key_id,
    };
    let reply = does(cluster, entry::Command::CreateToken(made)).await;
    assert!(matches!(reply.result, Some(reply::Result::Done(_))), "{reply:?}");
    secret
}

async fn founded(machine: &Machine) -> Cluster<State> {
    let cluster: Cluster<State> = machine.start(&[]).await;
    cluster.ready(5_000).await.unwrap();
    let initialize = Initialize {
        cluster: "c".into(),
        unit_key_id: 7,
        receipt_key: Some(ReceiptKey { id: 1, key: vec![1; 16] }),
        now_ms: 1,
        feature_level: 0,
    };
    does(&cluster, entry::Command::Initialize(initialize)).await;
    eventually("log time", || cluster.read(|state| state.log_time_ms() > 0)).await;
    cluster
}

async fn joining(machine: &Machine, shown: Option<String>) -> Cluster<State> {
    let join_token = shown.map(|text| JoinToken(Arc::new(move || Ok(text.clone()))));
    let options = Options { join_token, ..machine.options(&[1]).await };
    machine.start_with(options).await
}

fn waits(cluster: &Cluster<State>, part: &str) -> bool {
    cluster.health().joins.is_some_and(|why| why.contains(part))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_are_tokens_a_node_is_let_in_by_one_of_the_role_join_and_no_other() {
    let net = Net::default();
    let first = Machine::new(&net, 1);
    let cluster = founded(&first).await;
    let now_ms = cluster.read(State::log_time_ms);
    let root = token(&cluster, "root", Role::Admin, None).await;
    let good = token(&cluster, "door", Role::Join, Some(now_ms + 3_600_000)).await;
    let short = token(&cluster, "short", Role::Join, Some(now_ms + 1_500)).await;
    let gone = token(&cluster, "gone", Role::Join, Some(now_ms + 3_600_000)).await;
    does(&cluster, entry::Command::RevokeToken(log::RevokeToken { name: "tokens/gone".into() })).await;
    eventually("its end", || cluster.read(State::log_time_ms) > now_ms + 1_500).await;

    let mut number = 2;
    for (shown, part) in [
        (None, "showed none"),
        (Some(gone), "revoked, or mistyped"),
        (Some(good.replace("ab", "cd")), "revoked, or mistyped"),
        (Some("nonsense".to_owned()), "revoked, or mistyped"),
        (Some(short), "token 'short' has expired"),
        (Some(root), "token 'root' has no role join"),
    ] {
        let machine = Machine::new(&net, number);
        let refused = joining(&machine, shown).await;
        eventually(part, || waits(&refused, part)).await;
        assert!(waits(&refused, "--role join"), "the way out: {:?}", refused.health().joins);
        assert!(machine.key.id().is_none() && member(&cluster.health(), number).is_none());
        refused.shutdown().await;
        number += 1;
    }

    // In somebody else's name nobody asks, whatever they show.
    let mut client = stranger(&net, 1).await;
    let caller = Caller { node: 40, incarnation: 4, level: 2, ..Caller::default() };
    let admit =
        Admit { node: 41, incarnation: 5, address: "127.0.0.1:9041".into(), join_token: good.clone() };
    let change = ChangeRequest { change: Some(change_request::Change::Admit(admit)) };
    let answered = client.change(as_caller(&caller, change)).await.unwrap().into_inner();
    assert!(
        matches!(&answered.outcome, Some(change_response::Outcome::Refused(why)) if why.contains("asks for itself")),
        "{answered:?}"
    );

    let machine = Machine::new(&net, number);
    let joined = joining(&machine, Some(good)).await;
    joined.ready(10_000).await.unwrap();
    assert_eq!(machine.key.id(), first.key.id(), "with the join it has the key");
    eventually("the audit names the token", || {
        let told = cluster.read(|state| state.audit(0, 100));
        let added = format!("node {number} added as a learner");
        told.iter().any(|record| {
            record.principal.as_ref().is_some_and(|who| who.id == "door") && record.detail.contains(&added)
        })
    })
    .await;
    // What it forwards is taken by its proof, and what no door makes is not.
    eventually("the state", || joined.read(State::is_initialized)).await;
    let reply = does(&joined, entry::Command::SetMetric(log::SetMetric::default())).await;
    assert!(matches!(reply.result, Some(reply::Result::Refusal(_))), "{reply:?}");
    let error = joined.propose(Bytes::from_static(b"garbage")).await.unwrap_err();
    assert!(error.to_string().contains("was not taken"), "{error}");
    assert!(cluster.health().halted.is_none());

    // An admin lets one in by name: it needs no token, and gets the key all the same.
    number += 1;
    let machine = Machine::new(&net, number);
    let added = joining(&machine, None).await;
    let admit = Newcomer { node: number, incarnation: 0, address: address_of(number).to_string() };
    // By way of a member that does not lead, too.
    joined.change(&Change::Admit(admit)).await.unwrap();
    added.ready(10_000).await.unwrap();
    assert_eq!(machine.key.id(), first.key.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_handed_over_on_one_machine_or_behind_tls_and_a_token_that_cannot_be_read_is_said() {
    let net = Net::default();
    let first = Machine::new(&net, 1);
    let _cluster: Cluster<Toy> = first.start(&[]).await;
    let far = Machine::new(&net, 2);
    let mut options = far.options(&[1]).await;
    options.address = "node-2:9002".to_owned();
    net.alias("node-2:9002", 2);
    let waiting: Cluster<Toy> = far.start_with(options).await;
    let why = || waiting.health().joins.unwrap_or_default();
    eventually("a refusal", || why().contains("not on this machine")).await;
    assert!(why().contains("--peer-tls-cert"), "{}", why());
    waiting.shutdown().await;

    let unread = Arc::new(AtomicBool::new(true));
    let (asked, machine) = (Arc::clone(&unread), Machine::new(&net, 3));
    let join_token = Some(JoinToken(Arc::new(move || match asked.load(Ordering::SeqCst) {
        true => Err("'/nowhere' cannot be read".to_owned()),
        false => Ok(String::new()),
    })));
    let options = Options { join_token, ..machine.options(&[1]).await };
    let waiting: Cluster<Toy> = machine.start_with(options).await;
    eventually("the file", || waiting.health().joins.is_some_and(|why| why.contains("/nowhere"))).await;
    unread.store(false, Ordering::SeqCst);
    waiting.ready(10_000).await.unwrap();
}

#[test]
fn a_store_that_cannot_be_read_ends_the_start_with_the_reason() {
    struct Unread;
    impl featureops_cluster::PeerKeyStore for Unread {
        fn read_peer_key(&self) -> std::io::Result<Option<PeerKey>> {
            Err(std::io::Error::other("run chmod 600 on it"))
        }
        fn keep_peer_key(&self, _: &PeerKey) -> std::io::Result<()> {
            unreachable!()
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let machine = Machine::new(&Net::default(), 1);
        let options = Options { peer_keys: Some(PeerKeys(Arc::new(Unread))), ..machine.options(&[]).await };
        let started = Cluster::<Toy>::start(
            machine.environment(),
            options,
            Toy::default(),
            Arc::new(featureops_cluster::NoSink),
        );
        let error = started.await.err().unwrap().to_string();
        assert!(error.contains("peer key") && error.contains("chmod 600"), "{error}");
    });
    let _ = KeyFile::default();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founding_that_broke_off_before_the_first_entry_is_begun_anew_or_given_up_for_another_cluster() {
    use featureops_cluster::environment::Environment;
    use featureops_cluster::storage::Mark;
    let net = Net::default();
    let first = Machine::new(&net, 1);
    let cluster: Cluster<Toy> = first.start(&[]).await;
    cluster.ready(5_000).await.unwrap();
    // What such a start leaves: a folder that names its own cluster, and nothing in it.
    let broken = async |machine: &Machine, incarnation: u64| {
        let Environment { storage, .. } = machine.environment();
        let disk = storage.open(machine.node, incarnation).unwrap();
        let mark = Mark { cluster: incarnation, ..disk.marks.current() };
        assert!(mark.is_unfounded());
        disk.marks.write(mark, true).await.unwrap();
    };
    let joins = Machine::new(&net, 2);
    broken(&joins, 700).await;
    let joined: Cluster<Toy> = joins.start(&[1]).await;
    joined.ready(10_000).await.unwrap();
    assert_eq!(joined.health().cluster, cluster.health().cluster);
    joined.shutdown().await;
    let joined: Cluster<Toy> = joins.start(&[1]).await;
    joined.ready(10_000).await.unwrap();
    assert_eq!(joined.health().cluster, cluster.health().cluster, "it is written");

    let waits = Machine::new(&net, 3);
    broken(&waits, 800).await;
    let told: Cluster<Toy> = waits.start(&[9]).await;
    assert_eq!(told.health().cluster, 0);
    told.initialize().await.unwrap();
    told.ready(5_000).await.unwrap();
    assert_eq!(told.health().cluster, told.health().incarnation);

    let founds = Machine::new(&net, 4);
    broken(&founds, 900).await;
    let own: Cluster<Toy> = founds.start(&[]).await;
    own.ready(5_000).await.unwrap();
    own.propose(entry("begun")).await.unwrap();
    assert_eq!(own.health().cluster, 900);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_node_that_made_a_cluster_of_its_own_hears_from_its_peers_that_it_is_another() {
    let net = Net::default();
    let (machines, clusters) = voters::<Toy>(&net, 3).await;
    clusters[0].shutdown().await;
    let alone: Cluster<Toy> = machines[0].emptied().start(&[]).await;
    alone.ready(5_000).await.unwrap();
    eventually("it hears", || alone.health().estranged.is_some()).await;
    let why = alone.health().estranged.unwrap();
    assert!(why.contains("made a cluster of its own") && why.contains("emptied"), "{why}");
    assert!(clusters[1].health().estranged.is_none());
}
