//! Request ids: a command repeated within the window gets its first reply again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use featureops_proto::log::{Reply, RequestRecord};

/// Ids remembered.
pub const MAX_REQUESTS: usize = 16_384;

/// The last replies by request id.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    replies: BTreeMap<Arc<str>, Arc<Reply>>,
    order: VecDeque<Arc<str>>,
}

impl Requests {
    /// The reply given before.
    pub fn find(&self, request_id: &str) -> Option<Reply> {
        self.replies.get(request_id).map(|reply| Reply::clone(reply))
    }

    /// Remembers a reply; the oldest leaves.
    pub fn remember(&mut self, request_id: &str, reply: &Reply) {
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
        self.replies.insert(id, Arc::new(reply.clone()));
    }

    /// Oldest first.
    pub fn records(&self) -> impl Iterator<Item = RequestRecord> {
        self.order.iter().map(|id| RequestRecord { request_id: id.to_string(), reply: self.find(id) })
    }
}
