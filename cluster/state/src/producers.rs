//! Exactly once: which batches of which producer were answered.
//!
//! Per producer a high mark, a bitmap of the 4,096 sequences up to it, and the last 16 replies with the hash of what was
//! sent. Inside the window a batch counts once; outside it the answer is a refusal, never a second count. What was said of
//! each event is kept up to a bound over all producers: beyond it the oldest lists leave, and a repeat is told that it is one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use featureops_proto::ErrorCode;
use featureops_proto::log::{BatchReply, DoorVerdict, ProducerRecord, Refusal, RememberedRecord};

/// Sequences remembered below the high mark.
pub const WINDOW: u64 = 4_096;
/// Replies kept to be given again.
pub const REPLIES: usize = 16;
/// Bytes of verdicts kept in all replies of all producers.
pub const MAX_VERDICT_BYTES: u64 = 64 << 20;
/// Producers at once.
pub const MAX_PRODUCERS: usize = 65_536;
/// Places beyond that for the nodes' own exposures, each start of a node under a name of its own: however many producers
/// clients make up, evaluations are counted.
pub const NODE_PRODUCERS: usize = 1_024;
/// An entry lives this long after its last use, in log time.
pub const IDLE_MS: i64 = 96 * 3_600_000;
/// Longest producer id, in bytes.
pub const MAX_PRODUCER_BYTES: usize = 128;
/// A producer that is not known may begin anywhere below this.
const MAX_FIRST_SEQUENCE: u64 = 1 << 62;
const WORDS: usize = (WINDOW / 64) as usize;

#[derive(Debug, Clone)]
struct Producer {
    high: u64,
    seen: [u64; WORDS],
    replies: VecDeque<(u64, u64, BatchReply)>,
    last_used_ms: i64,
}

/// The name a node reports its own exposures by, drawn anew at each start; no client may take one of this form.
#[must_use]
pub fn node_producer(node: u64, start: u64) -> String {
    format!("node-{node}-{start:016x}")
}

/// Whether a producer's name has the form of [`node_producer`].
#[must_use]
pub fn is_node_producer(name: &str) -> bool {
    let parts = name.strip_prefix("node-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(node, start)| {
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        (1..=20).contains(&node.len())
            && node.bytes().all(|byte| byte.is_ascii_digit())
            && start.len() == 16
            && start.bytes().all(hexadecimal)
    })
}

/// What is to be done with a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// It is new: count it, then [`Producers::remember`] the reply.
    New,
    /// It was answered; this is the answer.
    Answered(BatchReply),
    /// It is not counted, and why.
    Refused(Refusal),
}

/// All producers' windows.
#[derive(Debug, Clone, Default)]
pub struct Producers {
    by_id: BTreeMap<Arc<str>, Arc<Producer>>,
    /// Where the next sweep for idle ones begins.
    swept: Option<Arc<str>>,
    /// Those that keep verdicts, by the position of their oldest.
    oldest: BTreeSet<(u64, Arc<str>)>,
    /// What all verdicts take.
    verdict_bytes: u64,
}

impl Producers {
    /// Producers known.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether the producer has a window.
    pub fn knows(&self, producer: &str) -> bool {
        self.by_id.contains_key(producer)
    }

    /// Says what to do with (producer, sequence, hash of content).
    pub fn admit(&self, producer: &str, sequence: u64, content_hash: u64) -> Admission {
        let refuse =
            |code, message: String| Admission::Refused(Refusal::new(code, "sequence", sequence, message));
        if producer.is_empty() || producer.len() > MAX_PRODUCER_BYTES {
            let message = format!("producer must have 1 to {MAX_PRODUCER_BYTES} bytes");
            return Admission::Refused(Refusal::new(
                ErrorCode::InvalidArgument,
                "producer",
                producer.len(),
                message,
            ));
        }
        if sequence == 0 {
            return refuse(ErrorCode::InvalidArgument, "sequences begin at 1".to_owned());
        }
        let Some(known) = self.by_id.get(producer) else {
            if sequence >= MAX_FIRST_SEQUENCE {
                return refuse(ErrorCode::SequenceTooFar, format!("begin below {MAX_FIRST_SEQUENCE}"));
            }
            let places = MAX_PRODUCERS + if is_node_producer(producer) { NODE_PRODUCERS } else { 0 };
            if self.by_id.len() >= places {
                let message =
                    format!("{places} producers are known; use fewer, or wait until idle ones leave");
                return Admission::Refused(Refusal::new(
                    ErrorCode::TooManyProducers,
                    "producer",
                    producer,
                    message,
                ));
            }
            return Admission::New;
        };
        if sequence > known.high {
            if sequence - known.high > WINDOW {
                let message = format!("newest known is {}; go on within {WINDOW} of it", known.high);
                return refuse(ErrorCode::SequenceTooFar, message);
            }
            return Admission::New;
        }
        if known.high - sequence >= WINDOW {
            let message = format!(
                "newest known is {}; keep newest - oldest unanswered below {WINDOW}. not counted",
                known.high
            );
            return refuse(ErrorCode::SequenceTooOld, message);
        }
        if !known.has(sequence) {
            return Admission::New;
        }
        match known.replies.iter().find(|(number, _, _)| *number == sequence) {
            Some((_, hash, _)) if *hash != content_hash => refuse(
                ErrorCode::ContentMismatch,
                "this sequence was used with other content; give new content a new sequence".to_owned(),
            ),
            Some((_, _, reply)) => Admission::Answered(BatchReply { duplicate: true, ..reply.clone() }),
            None => Admission::Answered(BatchReply { duplicate: true, ..BatchReply::default() }),
        }
    }

    /// Marks the batch as answered.
    pub fn remember(
        &mut self,
        producer: &str,
        sequence: u64,
        content_hash: u64,
        reply: &BatchReply,
        now_ms: i64,
    ) {
        if !self.by_id.contains_key(producer) {
            let first =
                Producer { high: sequence, seen: [0; WORDS], replies: VecDeque::new(), last_used_ms: now_ms };
            self.by_id.insert(Arc::from(producer), Arc::new(first));
        }
        self.change(producer, |known| {
            known.mark(sequence);
            known.last_used_ms = now_ms;
            if known.replies.len() >= REPLIES {
                known.replies.pop_front();
            }
            known.replies.push_back((sequence, content_hash, reply.clone()));
        });
        self.bound(MAX_VERDICT_BYTES);
    }

    /// Completes the reply of a batch that was remembered before its outcomes were counted.
    pub fn complete(&mut self, producer: &str, sequence: u64, reply: &BatchReply) {
        self.change(producer, |known| {
            if let Some(remembered) =
                known.replies.iter_mut().rev().find(|(number, _, _)| *number == sequence)
            {
                remembered.2 = reply.clone();
            }
        });
        self.bound(MAX_VERDICT_BYTES);
    }

    /// What the verdicts that are kept take, in bytes.
    pub const fn verdict_bytes(&self) -> u64 {
        self.verdict_bytes
    }

    /// Changes a producer, and what is known of its verdicts.
    fn change(&mut self, producer: &str, change: impl FnOnce(&mut Producer)) {
        let Some((id, _)) = self.by_id.get_key_value(producer) else { return };
        let id = Arc::clone(id);
        let Some(known) = self.by_id.get_mut(producer) else { return };
        let known = Arc::make_mut(known);
        let (oldest, bytes) = known.verdicts();
        change(known);
        let now = known.verdicts();
        self.verdict_bytes = self.verdict_bytes.saturating_sub(bytes).saturating_add(now.1);
        if oldest != now.0 {
            if let Some(position) = oldest {
                self.oldest.remove(&(position, Arc::clone(&id)));
            }
            if let Some(position) = now.0 {
                self.oldest.insert((position, id));
            }
        }
    }

    /// Lets verdicts go, the oldest first, until what is kept is within the bound. That they were given stays known.
    fn bound(&mut self, bytes_max: u64) {
        while self.verdict_bytes > bytes_max {
            let Some((position, id)) = self.oldest.first().cloned() else { break };
            self.change(&id, |known| {
                let of_then = |reply: &BatchReply| reply.position == position && !reply.verdicts.is_empty();
                for (_, _, reply) in known.replies.iter_mut().filter(|(_, _, reply)| of_then(reply)) {
                    *reply = BatchReply::default();
                }
            });
        }
    }

    /// Forgets producers idle for 96 h, a few a call, so that no tick pays for all.
    pub fn sweep(&mut self, now_ms: i64) {
        const A_CALL: usize = 256;
        let from = match self.swept.take() {
            Some(id) => std::ops::Bound::Excluded(id),
            None => std::ops::Bound::Unbounded,
        };
        let looked: Vec<(Arc<str>, bool)> = self
            .by_id
            .range((from, std::ops::Bound::Unbounded))
            .take(A_CALL)
            .map(|(id, p)| (Arc::clone(id), now_ms.saturating_sub(p.last_used_ms) > IDLE_MS))
            .collect();
        if looked.len() == A_CALL {
            self.swept = looked.last().map(|(id, _)| Arc::clone(id));
        }
        for (id, idle) in looked {
            if idle {
                self.change(&id, |known| known.replies.clear());
                self.by_id.remove(&id);
            }
        }
    }

    /// As snapshot records, by id.
    pub fn records(&self) -> impl Iterator<Item = ProducerRecord> {
        self.by_id.iter().map(|(id, p)| ProducerRecord {
            producer: id.to_string(),
            high: p.high,
            seen: p.seen.iter().flat_map(|word| word.to_le_bytes()).collect(),
            replies: p
                .replies
                .iter()
                .map(|(sequence, content_hash, reply)| RememberedRecord {
                    sequence: *sequence,
                    content_hash: *content_hash,
                    reply: Some(reply.clone()),
                })
                .collect(),
            last_used_ms: p.last_used_ms,
        })
    }

    /// The sweep's place, for the snapshot's header.
    pub fn swept(&self) -> &str {
        self.swept.as_deref().unwrap_or("")
    }

    /// Restores the sweep's place.
    pub fn set_swept(&mut self, id: &str) {
        self.swept = (!id.is_empty()).then(|| Arc::from(id));
    }

    /// Restores one; false when it cannot be right.
    pub fn restore(&mut self, record: ProducerRecord) -> bool {
        if record.seen.len() != WORDS * 8 || record.replies.len() > REPLIES {
            return false;
        }
        let mut seen = [0; WORDS];
        for (word, bytes) in seen.iter_mut().zip(record.seen.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            *word = u64::from_le_bytes(eight);
        }
        let replies = record
            .replies
            .into_iter()
            .map(|r| (r.sequence, r.content_hash, r.reply.unwrap_or_default()))
            .collect();
        let producer =
            Producer { high: record.high, seen, replies: VecDeque::new(), last_used_ms: record.last_used_ms };
        self.by_id.insert(Arc::from(record.producer.as_str()), Arc::new(producer));
        self.change(&record.producer, |known| known.replies = replies);
        true
    }
}

impl Producer {
    /// Position of the oldest reply that keeps verdicts, and what they all take in bytes.
    fn verdicts(&self) -> (Option<u64>, u64) {
        let kept = self.replies.iter().map(|(_, _, reply)| reply).filter(|reply| !reply.verdicts.is_empty());
        let bytes = |reply: &BatchReply| (reply.verdicts.len() * size_of::<DoorVerdict>()) as u64;
        kept.fold((None, 0), |(oldest, sum): (Option<u64>, u64), reply| {
            (
                Some(oldest.map_or(reply.position, |at| at.min(reply.position))),
                sum.saturating_add(bytes(reply)),
            )
        })
    }

    fn has(&self, sequence: u64) -> bool {
        let (word, bit) = place(sequence);
        self.seen.get(word).is_some_and(|w| w & bit != 0)
    }

    fn mark(&mut self, sequence: u64) {
        // What leaves the window makes room for what enters it.
        if sequence > self.high {
            for entering in self.high + 1..=sequence {
                let (word, bit) = place(entering);
                if let Some(w) = self.seen.get_mut(word) {
                    *w &= !bit;
                }
            }
            self.high = sequence;
        }
        let (word, bit) = place(sequence);
        if let Some(w) = self.seen.get_mut(word) {
            *w |= bit;
        }
    }
}

fn place(sequence: u64) -> (usize, u64) {
    let at = sequence % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn take(producers: &mut Producers, sequence: u64) -> Admission {
        let admission = producers.admit("p", sequence, sequence);
        if admission == Admission::New {
            producers.remember(
                "p",
                sequence,
                sequence,
                &BatchReply { counted: 1, ..BatchReply::default() },
                0,
            );
        }
        admission
    }

    fn code(admission: &Admission) -> &str {
        match admission {
            Admission::Refused(refusal) => &refusal.code,
            _ => "",
        }
    }

    #[test]
    fn window_edges() {
        for (ahead, expected) in [(4_095, ""), (4_096, "")] {
            let mut p = Producers::default();
            take(&mut p, 1);
            assert_eq!(code(&take(&mut p, 1 + ahead)), expected);
        }
        let mut p = Producers::default();
        take(&mut p, 1);
        assert_eq!(code(&take(&mut p, 1 + 4_097)), "SEQUENCE_TOO_FAR");
        // Unanswered sequences count up to 4,095 below the newest, and are refused from 4,096 on.
        take(&mut p, 4_097);
        assert_eq!(take(&mut p, 2), Admission::New);
        assert_eq!(code(&take(&mut p, 1)), "SEQUENCE_TOO_OLD");
    }

    #[test]
    fn a_repeat_gets_its_answer_and_other_bytes_are_refused() {
        let mut p = Producers::default();
        take(&mut p, 5);
        let Admission::Answered(reply) = take(&mut p, 5) else { panic!() };
        assert!(reply.duplicate && reply.counted == 1);
        assert_eq!(code(&p.admit("p", 5, 99)), "CONTENT_MISMATCH");
        // Long answered: a duplicate, without the details.
        for sequence in 6..40 {
            take(&mut p, sequence);
        }
        let Admission::Answered(reply) = take(&mut p, 5) else { panic!() };
        assert!(reply.duplicate && reply.counted == 0);
    }

    fn verdicts(position: u64, count: usize) -> BatchReply {
        let verdicts = vec![DoorVerdict { index: 1, verdict: 5 }; count];
        BatchReply { position, verdicts, ..BatchReply::default() }
    }

    fn restored(p: &Producers) -> Producers {
        let mut restored = Producers::default();
        for record in p.records() {
            assert!(restored.restore(record));
        }
        restored.set_swept(p.swept());
        restored
    }

    #[test]
    fn the_oldest_verdicts_leave_first_and_their_repeats_stay_repeats() {
        // 32 KiB a batch: 2,048 of them are the bound.
        let (mut p, mut twin) = (Producers::default(), Producers::default());
        for position in 1..=2_100 {
            for producers in [&mut p, &mut twin] {
                // Names do not follow the order of time.
                let name = format!("p{}", position * 7_919 % 150);
                producers.remember(&name, position, position, &BatchReply::default(), 0);
                producers.complete(&name, position, &verdicts(position, 4_096));
            }
            assert!(p.verdict_bytes() <= MAX_VERDICT_BYTES);
            if position % 500 == 0 {
                twin = restored(&twin);
            }
        }
        assert!(p.records().eq(twin.records()), "a snapshot between changes nothing");
        assert_eq!((p.verdict_bytes(), p.oldest.len()), (twin.verdict_bytes(), twin.oldest.len()));
        let of = |position: u64| p.admit(&format!("p{}", position * 7_919 % 150), position, position);
        for (position, kept) in [(1, 0), (52, 0), (53, 4_096), (2_100, 4_096)] {
            let Admission::Answered(reply) = of(position) else { panic!("{position} is new") };
            assert_eq!((reply.duplicate, reply.verdicts.len()), (true, kept), "position {position}");
            assert_eq!(reply.position != 0, kept > 0);
        }
        let other = p.admit(&format!("p{}", 7_919 % 150), 1, 99);
        assert_eq!(code(&other), "CONTENT_MISMATCH", "what was sent is still known");
        // Whoever leaves takes his with him.
        for _ in 0..10 {
            p.sweep(IDLE_MS + 1);
        }
        assert_eq!((p.len(), p.verdict_bytes(), p.oldest.len()), (0, 0, 0));
    }

    #[test]
    fn a_node_finds_a_place_when_clients_have_taken_all() {
        let mut p = Producers::default();
        let reply = BatchReply::default();
        for id in 0..MAX_PRODUCERS {
            p.remember(&format!("p{id}"), 1, 1, &reply, 0);
        }
        assert_eq!(code(&p.admit("one-more", 1, 1)), "TOO_MANY_PRODUCERS");
        for start in 0..NODE_PRODUCERS as u64 {
            let node = node_producer(1, start);
            assert_eq!(p.admit(&node, 1, 1), Admission::New);
            p.remember(&node, 1, 1, &reply, 0);
        }
        assert_eq!(code(&p.admit(&node_producer(1, u64::MAX), 1, 1)), "TOO_MANY_PRODUCERS");
        assert_eq!(p.admit("p7", 2, 2), Admission::New, "whoever is known goes on");
        for name in ["node-1", "node-x-0000000000000001", "node-1-000000000000000G", "node--0000000000000001"]
        {
            assert!(!is_node_producer(name), "{name}");
        }
    }

    #[test]
    fn idle_producers_leave_and_live_ones_stay() {
        let mut p = Producers::default();
        for id in 0..1_000 {
            p.remember(
                &format!("p{id:04}"),
                1,
                1,
                &BatchReply::default(),
                if id % 2 == 0 { 0 } else { IDLE_MS },
            );
        }
        for _ in 0..10 {
            p.sweep(IDLE_MS + 1);
        }
        assert_eq!(p.len(), 500);
    }

    proptest! {
        #[test]
        fn counted_once_or_refused(steps in proptest::collection::vec(1u64..20_000, 1..300)) {
            let mut p = Producers::default();
            let mut counted = BTreeSet::new();
            let mut high = 0u64;
            for step in steps {
                // Mostly around the high mark, where the edges are.
                let sequence = if step % 3 == 0 { step } else { (high + 2_000).saturating_sub(step % 6_500).max(1) };
                match take(&mut p, sequence) {
                    Admission::New => {
                        prop_assert!(counted.insert(sequence), "never counted twice");
                        high = high.max(sequence);
                    }
                    Admission::Answered(_) => prop_assert!(counted.contains(&sequence)),
                    Admission::Refused(refusal) if refusal.code == "SEQUENCE_TOO_OLD" =>
                        prop_assert!(high - sequence >= WINDOW),
                    Admission::Refused(_) => prop_assert!(sequence - high > WINDOW),
                }
                let records: Vec<_> = p.records().collect();
                let mut restored = Producers::default();
                for record in records { prop_assert!(restored.restore(record)); }
                p = restored;
            }
        }
    }
}
