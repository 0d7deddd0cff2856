//! Request ids: a command repeated within the window gets its first reply again. An id stands for who does what to which
//! resource, with which content: anything else under it is refused, so that nobody takes the reply of something else for his
//! own, or a write for done that was not. The content is compared as the client sent it, by a hash that the door makes: the door
//! completes a command (it merges a mask, draws a seed), and an honest repeat may come completed otherwise. Where either of
//! the two has no such hash, of a release before it, caller, verb and resource decide alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use featureops_proto::ErrorCode;
use featureops_proto::log::{Refusal, Reply, RequestRecord, reply};

/// Ids remembered.
pub const MAX_REQUESTS: usize = 16_384;

#[derive(Debug)]
struct Answered {
    content_hash: u64,
    sent_hash: Option<u64>,
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
    pub fn find(&self, request_id: &str, content_hash: u64, sent_hash: Option<u64>) -> Option<Reply> {
        let answered = self.replies.get(request_id)?;
        let message = if answered.content_hash != content_hash {
            "this request id was used for another command; give a new command a new id"
        } else if answered.sent_hash.zip(sent_hash).is_some_and(|(first, now)| first != now) {
            "this request id was used before, for the same resource with other content, and this content was not written; \
             look at the resource, and give what is still to be changed a new id"
        } else {
            return Some(answered.reply.clone());
        };
        let refusal = Refusal::new(ErrorCode::ContentMismatch, "request_id", request_id, message);
        Some(Reply { result: Some(reply::Result::Refusal(refusal)) })
    }

    /// Remembers a reply; the oldest leaves.
    pub fn remember(&mut self, request_id: &str, content_hash: u64, sent_hash: Option<u64>, reply: &Reply) {
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
        self.replies.insert(id, Arc::new(Answered { content_hash, sent_hash, reply: reply.clone() }));
    }

    /// Oldest first.
    pub fn records(&self) -> impl Iterator<Item = RequestRecord> {
        self.order.iter().filter_map(|id| {
            let answered = self.replies.get(id)?;
            let Answered { content_hash, sent_hash, ref reply } = **answered;
            let reply = Some(reply.clone());
            Some(RequestRecord { request_id: id.to_string(), reply, content_hash, sent_hash })
        })
    }
}
