//! Several nodes over a network in memory: they elect, replicate, forward, catch up, and change their membership.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod net;
mod toy;

use std::time::Duration;

use featureops_cluster::{Change, ChangeError, Cluster, Fold, ProposeError};
use featureops_proto::log::{Batch, ExposureFact};
use net::{Machine, Net, address_of, entry, eventually, leader, member, promote, voters};
use toy::Toy;

fn held(cluster: &Cluster<Toy>) -> Vec<String> {
    cluster.read(|toy| {
        toy.entries.iter().map(|(_, entry)| String::from_utf8_lossy(entry).into_owned()).collect()
    })
}

async fn same(clusters: &[&Cluster<Toy>]) {
    eventually("equal states", || {
        let first = clusters[0].read(|toy| toy.entries.clone());
        clusters.iter().all(|cluster| cluster.read(|toy| toy.entries.clone()) == first)
    })
    .await;
}

/// Hands leadership to a node, by way of another, until it has it.
async fn lead<F: Fold>(by: &Cluster<F>, to: &Cluster<F>) {
    let node = to.health().node;
    for _ in 0..600 {
        if to.health().leader == Some(node) {
            return;
        }
        drop(by.change(&Change::Transfer(node)).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("node {node} did not come to lead within thirty seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_write_and_read_anywhere_and_a_restart_of_all_brings_everything_back() {
    let net = Net::default();
    let (machines, mut clusters) = voters::<Toy>(&net, 3).await;
    let mut written = Vec::new();
    for round in 0..3 {
        for number in 0..60 {
            let text = format!("{round}-{number}");
            let writer = &clusters[number % 3];
            let (position, _) = writer.propose(entry(&text)).await.unwrap();
            // Whoever wrote here reads here.
            assert!(*writer.applied().borrow() >= position);
            assert_eq!(held(writer).last(), Some(&text));
            written.push(text);
            let reader = &clusters[(number + 1) % 3];
            reader.linearizable().await.unwrap();
            assert_eq!(held(reader), written);
        }
        same(&clusters.iter().collect::<Vec<_>>()).await;
        for cluster in &clusters {
            cluster.shutdown().await;
        }
        clusters.clear();
        for machine in &machines {
            clusters.push(machine.start(&[1, 2, 3]).await);
        }
        leader(&clusters.iter().collect::<Vec<_>>()).await;
    }
    let health = clusters[0].health();
    assert_eq!(health.members.iter().filter(|member| member.voter).count(), 3);
    assert!(clusters.iter().all(|cluster| cluster.health().cluster == health.cluster && health.cluster != 0));
    for cluster in &clusters {
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_leader_a_cluster_goes_on_and_the_leader_that_comes_back_follows() {
    let net = Net::default();
    let (_machines, clusters) = voters::<Toy>(&net, 3).await;
    let all: Vec<_> = clusters.iter().collect();
    let old = leader(&all).await;
    clusters[0].propose(entry("before")).await.unwrap();
    net.isolate(old, (1..=3).filter(|node| *node != old));
    let rest: Vec<_> = all.iter().copied().filter(|cluster| cluster.health().node != old).collect();
    let new = leader(&rest).await;
    assert_ne!(new, old);
    rest[0].propose(entry("meanwhile")).await.unwrap();
    // The one that was cut off acknowledges nothing.
    let cut = all.iter().find(|cluster| cluster.health().node == old).unwrap();
    let error = cut.propose(entry("alone")).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown { .. } | ProposeError::NotLeader { .. }), "{error}");
    assert!(matches!(cut.linearizable().await, Err(ProposeError::NotLeader { .. })));
    assert_eq!(held(cut), ["before"], "it goes on reading");
    net.heal();
    leader(&all).await;
    cut.propose(entry("after")).await.unwrap();
    same(&all).await;
    let mut texts = held(cut);
    texts.retain(|text| text != "alone");
    assert_eq!(texts, ["before", "meanwhile", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_not_heard_and_one_that_hears_nobody_both_give_way() {
    for deaf in [false, true] {
        let net = Net::default();
        let (_machines, clusters) = voters::<Toy>(&net, 3).await;
        let all: Vec<_> = clusters.iter().collect();
        let old = leader(&all).await;
        for other in (1..=3).filter(|node| *node != old) {
            if deaf {
                net.cut(other, old);
            } else {
                net.cut(old, other);
            }
        }
        let rest: Vec<_> = all.iter().copied().filter(|cluster| cluster.health().node != old).collect();
        eventually("another leader", || {
            rest.iter().any(|cluster| cluster.health().leads && cluster.health().node != old)
        })
        .await;
        // One that is heard and hears nothing may disturb for a while: it asks again until it is through.
        let mut tries = 0;
        while rest[0].propose(entry("meanwhile")).await.is_err() {
            tries += 1;
            assert!(tries < 10);
        }
        net.heal();
        leader(&all).await;
        same(&all).await;
        assert!(held(all[0]).contains(&"meanwhile".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_far_behind_gets_the_snapshot_is_promoted_and_members_leave() {
    let net = Net::default();
    let machine = Machine::new(&net, 1);
    let mut options = machine.options(&[]).await;
    (options.snapshot_after_entries, options.keep_entries) = (50, 5);
    let first: Cluster<Toy> = machine.start_with(options).await;
    first.ready(5_000).await.unwrap();
    let long = "x".repeat(60_000);
    for number in 0..200 {
        first.propose(entry(&format!("{number}{long}"))).await.unwrap();
    }
    eventually("a purged log", || first.health().purged.is_some_and(|purged| purged > 100)).await;

    let others: Vec<_> = [2, 3].iter().map(|node| Machine::new(&net, *node)).collect();
    let second: Cluster<Toy> = others[0].start(&[1]).await;
    eventually("a learner", || member(&first.health(), 2).is_some()).await;
    eventually("the snapshot", || second.health().snapshot.is_some()).await;
    same(&[&first, &second]).await;
    assert!(!member(&first.health(), 2).unwrap().voter);
    // One that has what it was sent comes back by itself, also when it crashes at once.
    second.shutdown().await;
    others[0].disk.crash();
    let second: Cluster<Toy> = others[0].start(&[1]).await;
    second.ready(10_000).await.unwrap();
    same(&[&first, &second]).await;
    promote(&second, 2).await;
    let third: Cluster<Toy> = others[1].start(&[2]).await;
    third.ready(10_000).await.unwrap();
    promote(&second, 3).await;

    // The one that leads goes: another leads first.
    let old = leader(&[&first, &second, &third]).await;
    assert_eq!(old, 1);
    second.change(&Change::Remove(1)).await.unwrap();
    eventually("two members", || second.health().members.len() == 2).await;
    leader(&[&second, &third]).await;
    second.propose(entry("two")).await.unwrap();
    third.change(&Change::Remove(1)).await.unwrap();

    // What would leave nobody to decide is refused, with names.
    lead(&second, &second).await;
    net.isolate(3, [1, 2]);
    eventually("silence", || member(&second.health(), 3).unwrap().heard_ms_ago > Some(2_000)).await;
    let refused = second.change(&Change::Remove(2)).await.unwrap_err();
    assert!(refused.to_string().contains("would leave the voters 3"), "{refused}");
    net.heal();
    leader(&[&second, &third]).await;
    eventually("it is heard", || {
        [&second, &third].iter().all(|cluster| {
            !cluster.health().leads
                || cluster
                    .health()
                    .members
                    .iter()
                    .all(|member| member.node == cluster.health().node || member.heard_ms_ago < Some(1_000))
        })
    })
    .await;
    second.change(&Change::Remove(3)).await.unwrap();
    let error = second.change(&Change::Remove(2)).await.unwrap_err();
    assert!(error.to_string().contains("the only voter"), "{error}");
    second.propose(entry("one")).await.unwrap();
    assert_eq!(held(&second).last().unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_demand_and_at_an_end_and_a_voter_is_replaced() {
    let net = Net::default();
    let (_machines, clusters) = voters::<Toy>(&net, 3).await;
    let all: Vec<_> = clusters.iter().collect();
    for to in [2, 3, 1, 2] {
        // A member that was just silent is asked for again.
        eventually("all are heard", || {
            all.iter().any(|cluster| {
                cluster.health().leads
                    && cluster.health().members.iter().all(|member| {
                        member.node == cluster.health().node || member.heard_ms_ago < Some(1_000)
                    })
            })
        })
        .await;
        clusters[0].change(&Change::Transfer(to)).await.unwrap();
        assert_eq!(leader(&all).await, to);
        clusters[2].propose(entry(&format!("led by {to}"))).await.unwrap();
    }
    let error = clusters[0].change(&Change::Transfer(9)).await.unwrap_err();
    assert!(error.to_string().contains("the voters are 1, 2, 3"), "{error}");

    let fourth: Cluster<Toy> = Machine::new(&net, 4).start(&[3]).await;
    fourth.ready(10_000).await.unwrap();
    let mut tries = 0;
    // Node 2 leads: it lets another lead, who replaces it.
    while let Err(error) = clusters[0].change(&Change::Replace { old: 2, new: 4 }).await {
        tries += 1;
        assert!(tries < 200, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("three members", || {
        let voters: Vec<u64> = clusters[0].health().members.iter().map(|member| member.node).collect();
        voters == [1, 3, 4]
    })
    .await;
    fourth.propose(entry("by the fourth")).await.unwrap();

    // Whoever ends as the leader is followed at once.
    let rest = [&clusters[0], &clusters[2], &fourth];
    let old = leader(&rest).await;
    let leading = rest.iter().find(|cluster| cluster.health().node == old).unwrap();
    let others: Vec<_> = rest.iter().copied().filter(|cluster| cluster.health().node != old).collect();
    leading.shutdown().await;
    assert!(others.iter().any(|cluster| cluster.health().leader.is_some_and(|leader| leader != old)));
    // The other one hears of it a moment later; what it forwards until then may be unknown.
    assert_ne!(leader(&others).await, old);
    others[0].propose(entry("last")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_disk_a_taken_number_and_another_cluster_are_refused() {
    let net = Net::default();
    let (machines, clusters) = voters::<Toy>(&net, 3).await;
    let all: Vec<_> = clusters.iter().collect();
    if leader(&all).await == 3 {
        clusters[0].change(&Change::Transfer(1)).await.unwrap();
    }
    clusters[0].propose(entry("kept")).await.unwrap();
    clusters[2].shutdown().await;
    // Node 3 comes back with nothing: it must not vote in the name of the one before.
    let emptied: Cluster<Toy> = machines[2].emptied().start(&[1, 2]).await;
    eventually("a refusal", || emptied.health().joins.is_some_and(|why| why.contains("remove node 3"))).await;
    let leading = all.iter().find(|cluster| cluster.health().leads).unwrap();
    eventually("the leader says so", || {
        member(&leading.health(), 3).unwrap().fault.is_some_and(|why| why.contains("was emptied"))
    })
    .await;
    assert!(emptied.health().members.is_empty() && emptied.health().cluster == 0);
    // The way out that it names.
    clusters[1].change(&Change::Remove(3)).await.unwrap();
    emptied.ready(20_000).await.unwrap();
    promote(&clusters[0], 3).await;
    same(&[&clusters[0], &clusters[1], &emptied]).await;

    // A cluster of its own does not join another.
    let other = Machine::new(&net, 5);
    let alone: Cluster<Toy> = other.start(&[]).await;
    alone.ready(5_000).await.unwrap();
    let error = clusters[0]
        .change(&Change::Admit(featureops_cluster::Newcomer {
            node: 5,
            incarnation: 0,
            address: address_of(5).to_string(),
        }))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("clusters do not mix"), "{error}");
    let error = clusters[0]
        .change(&Change::Admit(featureops_cluster::Newcomer {
            node: 6,
            incarnation: 0,
            address: address_of(2).to_string(),
        }))
        .await
        .unwrap_err();
    assert!(matches!(&error, ChangeError::Refused { why } if why.contains("that of node 2")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_all_wait_become_a_cluster_when_one_is_told_to() {
    let net = Net::default();
    let machines: Vec<_> = (1..=3).map(|node| Machine::new(&net, node)).collect();
    let mut clusters: Vec<Cluster<Toy>> = Vec::new();
    for machine in &machines {
        clusters.push(machine.start(&[1, 2, 3]).await);
    }
    assert!(clusters[0].ready(500).await.is_err());
    assert!(clusters[0].health().joins.is_some());
    clusters[1].initialize().await.unwrap();
    assert!(clusters[1].initialize().await.is_err());
    for cluster in &clusters {
        cluster.ready(20_000).await.unwrap();
    }
    promote(&clusters[2], 1).await;
    promote(&clusters[2], 3).await;
    clusters[0].propose(entry("together")).await.unwrap();
    same(&clusters.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_taken_by_any_node_are_answered_one_by_one_and_ticks_come_from_the_leader_alone() {
    let net = Net::default();
    let (_machines, clusters) = voters::<Toy>(&net, 3).await;
    leader(&clusters.iter().collect::<Vec<_>>()).await;
    let mut waiting = Vec::new();
    for number in 0..300_u64 {
        let cluster = clusters[number as usize % 3].clone();
        waiting.push(tokio::spawn(async move {
            let batch = Batch {
                producer: format!("p{}", number % 7),
                sequence: number,
                exposures: vec![ExposureFact::default()],
                ..Batch::default()
            };
            cluster.ingest(batch).await
        }));
    }
    for (number, answer) in waiting.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().unwrap().counted as usize, number);
    }
    eventually("ticks", || clusters[0].read(|toy| toy.ticks.len() > 5)).await;
    let ticks = clusters[0].read(|toy| toy.ticks.clone());
    assert_eq!(ticks.iter().filter(|(_, after_restart)| *after_restart).count(), 1, "{ticks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_runs_ahead_stamps_no_more_than_five_seconds_beyond_the_others() {
    use std::sync::atomic::Ordering;
    let net = Net::default();
    let (machines, clusters) = voters::<Toy>(&net, 3).await;
    let all: Vec<_> = clusters.iter().collect();
    for machine in &machines {
        let ahead_ms = if machine.node == 2 { 3_600_000 } else { 0 };
        machine.clock.ahead_ms.store(ahead_ms, Ordering::SeqCst);
    }
    clusters[1].shutdown().await;
    // Its clock is wrong from its start on, so that nothing in itself says so.
    let wrong: Cluster<Toy> = machines[1].start(&[1]).await;
    wrong.ready(10_000).await.unwrap();
    eventually("it is heard", || {
        all.iter().any(|cluster| {
            cluster.health().leads
                && member(&cluster.health(), 2).unwrap().clock_ahead_ms.is_some_and(|ahead| ahead > 3_500_000)
        })
    })
    .await;
    lead(&clusters[0], &wrong).await;
    let before = wrong.read(|toy| toy.ticks.len());
    eventually("more ticks", || wrong.read(|toy| toy.ticks.len() > before + 5)).await;
    let latest = wrong.read(|toy| toy.ticks.iter().map(|(now_ms, _)| *now_ms).max().unwrap());
    let true_ms = {
        use featureops_cluster::environment::Clock;
        machines[0].clock.unix_ms()
    };
    assert!(latest <= true_ms + 5_500, "{} ms ahead", latest - true_ms);
    assert!(latest > true_ms, "it ticks by its own clock up to there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_is_behind_does_not_hold_the_others_time() {
    use featureops_cluster::environment::Clock;
    use std::sync::atomic::Ordering;
    let net = Net::default();
    let (machines, clusters) = voters::<Toy>(&net, 3).await;
    machines[1].clock.ahead_ms.store(-3_600_000, Ordering::SeqCst);
    clusters[1].shutdown().await;
    let wrong: Cluster<Toy> = machines[1].start(&[1]).await;
    wrong.ready(10_000).await.unwrap();
    lead(&clusters[0], &wrong).await;
    let before = wrong.read(|toy| toy.ticks.len());
    eventually("more ticks", || wrong.read(|toy| toy.ticks.len() > before + 5)).await;
    let last = wrong.read(|toy| toy.ticks.last().unwrap().0);
    let true_ms = machines[0].clock.unix_ms();
    assert!((true_ms - 10_000..=true_ms).contains(&last), "{} ms behind", true_ms - last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_stream_breaks_goes_on_where_it_stopped() {
    let net = Net::default();
    let machine = Machine::new(&net, 1);
    let mut options = machine.options(&[]).await;
    (options.snapshot_after_entries, options.keep_entries) = (200, 5);
    let first: Cluster<Toy> = machine.start_with(options).await;
    first.ready(5_000).await.unwrap();
    let long = "x".repeat(120_000);
    for number in 0..450 {
        first.propose(entry(&format!("{number}{long}"))).await.unwrap();
    }
    eventually("a purged log", || first.health().purged.is_some_and(|purged| purged > 300)).await;
    // Nothing new to snapshot: the one that is sent stays the same.
    let second: Cluster<Toy> = Machine::new(&net, 2).start(&[1]).await;
    let mut breaks = 0;
    let mut at = 4 << 20;
    for turn in 0.. {
        if second.health().snapshot.is_some() {
            break;
        }
        assert!(turn < 60_000, "no snapshot within a minute");
        let received = second.health().received_bytes;
        if received >= at && breaks < 5 {
            net.reset(2);
            breaks += 1;
            at = received + (4 << 20);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(breaks > 1, "the stream was never broken: the test proves nothing");
    same(&[&first, &second]).await;
    let health = second.health();
    // A whole snapshot of at least 48 MB came once, not once for each break.
    let least = 400 * 120_000;
    assert!(health.received_bytes >= least && health.received_bytes < least * 3 / 2, "{health:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_fails_goes_on_reading_is_opened_again_and_catches_up() {
    use featureops_cluster::Member;
    let net = Net::default();
    let machines: Vec<_> = (1..=3).map(|node| Machine::new(&net, node)).collect();
    let mut members: Vec<Member<Toy>> = Vec::new();
    for machine in &machines {
        let seeds: &[u64] = if machine.node == 1 { &[] } else { &[1] };
        let member = machine.member(seeds).await;
        eventually("a cluster", || member.health().leader.is_some()).await;
        if machine.node > 1 {
            let mut tries = 0;
            while members[0].change(&Change::Promote(machine.node)).await.is_err() {
                tries += 1;
                assert!(tries < 500);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        members.push(member);
    }
    let count = |member: &Member<Toy>| member.read(|toy| toy.entries.len());
    members[2].propose(entry("before")).await.unwrap();
    eventually("everywhere", || members.iter().all(|member| count(member) == 1)).await;
    machines[2].disk.set_full(true);
    for number in 0..50 {
        members[0].propose(entry(&number.to_string())).await.unwrap();
    }
    eventually("it waits", || members[2].health().waits.is_some()).await;
    assert!(count(&members[2]) >= 1);
    assert!(matches!(members[2].propose(entry("no")).await, Err(ProposeError::Waiting { .. })));
    machines[2].disk.set_full(false);
    eventually("it is back", || members[2].health().waits.is_none()).await;
    eventually("it caught up", || count(&members[2]) == 51).await;
    members[2].propose(entry("after")).await.unwrap();
    assert!(members[1].linearizable().await.is_ok() && count(&members[1]) == 52);
    for member in &members {
        member.shutdown().await;
    }
}

/// The product's own fold behind a follower whose answers get lost: what is repeated under its name counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_whose_answer_was_lost_and_is_repeated_under_its_id_takes_effect_once() {
    use featureops_proto::log::{self, Entry, Initialize, ReceiptKey, reply};
    use featureops_proto::v1::{Metric, Principal, metric, principal};
    use featureops_state::State;
    use prost::Message;
    let net = Net::default();
    let (_machines, clusters) = voters::<State>(&net, 3).await;
    let all: Vec<_> = clusters.iter().collect();
    let principal = Principal { kind: principal::Kind::Human.into(), id: "ada".into(), verified: true };
    let initialize = Initialize {
        cluster: "c".into(),
        unit_key_id: 7,
        receipt_key: Some(ReceiptKey { id: 1, key: vec![1; 16] }),
        now_ms: 1,
        feature_level: 0,
    };
    let command = |command, request_id: String| {
        let principal = Some(principal.clone());
        let entry = Entry { principal, request_id, command: Some(command), ..Entry::default() };
        bytes::Bytes::from(entry.encode_to_vec())
    };
    let initialize = command(log::entry::Command::Initialize(initialize), String::new());
    clusters[0].propose(initialize).await.unwrap();
    let mut unknown = 0;
    let mut rounds = 0;
    // Until an answer was lost; it is after a few.
    while rounds < 12 || unknown == 0 {
        let number = rounds;
        rounds += 1;
        assert!(rounds <= 200, "no answer was ever lost: the test proves nothing");
        let leading = leader(&all).await;
        let follower = all.iter().find(|cluster| cluster.health().node != leading).unwrap();
        let metric = Metric {
            name: "environments/p/metrics/m".into(),
            kind: metric::Kind::Count.into(),
            direction: metric::Direction::HigherIsBetter.into(),
            description: format!("written {number}"),
            ..Metric::default()
        };
        let set = log::SetMetric { metric: Some(metric), ..log::SetMetric::default() };
        let entry = command(log::entry::Command::SetMetric(set), format!("r-{number}"));
        // The way back to the follower breaks while the leader writes.
        let asked = tokio::spawn({
            let (follower, entry) = ((*follower).clone(), entry.clone());
            async move { follower.propose(entry).await }
        });
        tokio::time::sleep(Duration::from_millis(number % 4)).await;
        net.reset(follower.health().node);
        let mut answer = asked.await.unwrap();
        let mut tries = 0;
        while let Err(error) = &answer {
            unknown += usize::from(matches!(error, ProposeError::Unknown { .. }));
            tries += 1;
            assert!(tries < 100, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer = follower.propose(entry.clone()).await;
        }
        let (_, reply) = answer.unwrap();
        assert!(matches!(reply.result, Some(reply::Result::Done(_))), "{reply:?}");
    }
    let told =
        clusters[0].linearizable().await.map(|_| clusters[0].read(|state| state.audit(0, 1_000))).unwrap();
    let written = told.iter().filter(|record| record.action == "metric.set").count();
    assert_eq!(written as u64, rounds, "{unknown} answers were lost");
}
