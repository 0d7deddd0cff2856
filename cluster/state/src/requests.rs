//! Request ids: a command repeated within the window gets its first reply again. An id stands for who does what to which
//! resource: another caller, verb or resource under it is refused, so that nobody takes the reply of something else for his
//! own. Other *content* is not: the door completes a command (it merges a mask, draws a seed), and an honest repeat may come
//! completed otherwise. So a second, different write under a used id is answered as the first was, and is not written: a
//! client draws an id for each thing it means, and repeats it only with that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use featureops_proto::ErrorCode;
use featureops_proto::log::{Refusal, Reply, RequestRecord, reply};

/// Ids remembered.
pub const MAX_REQUESTS: usize = 16_384;

#[derive(Debug)]
struct Answered {
    content_hash: u64,
    reply: Reply,
}

/// The last replies by request id.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    replies: BTreeMap<Arc<str>, Arc<Answered>>,
    order: VecDeque<Arc<str>>,
}

impl Requests {
    /// The reply given before, or the refusal of another command.
    pub fn find(&self, request_id: &str, content_hash: u64) -> Option<Reply> {
        let answered = self.replies.get(request_id)?;
        if answered.content_hash == content_hash {
            return Some(answered.reply.clone());
        }
        let message = "this request id was used for another command; give a new command a new id";
        let refusal = Refusal::new(ErrorCode::ContentMismatch, "request_id", request_id, message);
        Some(Reply { result: Some(reply::Result::Refusal(refusal)) })
    }

    /// Remembers a reply; the oldest leaves.
    pub fn remember(&mut self, request_id: &str, content_hash: u64, reply: &Reply) {
        if request_id.is_empty() || self.replies.contains_key(request_id) {
            return;
        }
        if self.order.len() >= MAX_REQUESTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.replies.remove(&oldest);
        }
        let id: Arc<str> = Arc::from(request_id);
        self.order.push_back(Arc::clone(&id));
        self.replies.insert(id, Arc::new(Answered { content_hash, reply: reply.clone() }));
    }

    /// Oldest first.
    pub fn records(&self) -> impl Iterator<Item = RequestRecord> {
        self.order.iter().filter_map(|id| {
            let answered = self.replies.get(id)?;
            let (content_hash, reply) = (answered.content_hash, Some(answered.reply.clone()));
            Some(RequestRecord { request_id: id.to_string(), reply, content_hash })
        })
    }
}
