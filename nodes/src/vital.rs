//! Vital tasks: what a node cannot do without for long, and which of it has ended.
//!
//! A task that panicked or returned leaves a node that answers, but by a world that stands still. The doctor asks here.

use std::sync::Arc;

use parking_lot::Mutex;

/// The tasks that have ended, by name. Each name is a fixed one, so the list is as short as the node's start.
#[derive(Default)]
pub struct Vital {
    ended: Mutex<Vec<&'static str>>,
}

impl Vital {
    /// The task, whose end is noted however it comes.
    pub fn watched<T: Future<Output = ()> + Send>(
        self: &Arc<Self>,
        name: &'static str,
        task: T,
    ) -> impl Future<Output = ()> + Send + use<T> {
        let end = End { vital: Arc::clone(self), name };
        async move {
            let _end = end;
            task.await;
        }
    }

    /// What has ended.
    #[must_use]
    pub fn ended(&self) -> Vec<&'static str> {
        self.ended.lock().clone()
    }
}

/// Dropped with its task.
struct End {
    vital: Arc<Vital>,
    name: &'static str,
}

impl Drop for End {
    fn drop(&mut self) {
        self.vital.ended.lock().push(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_noted_by_return_and_by_panic_and_not_before() {
        let vital = Arc::new(Vital::default());
        let waits = tokio::spawn(vital.watched("waits", std::future::pending()));
        tokio::spawn(vital.watched("returns", async {})).await.unwrap();
        let panicked = tokio::spawn(vital.watched("panics", async { panic!("planted") })).await;
        assert!(panicked.is_err());
        assert_eq!(vital.ended(), ["returns", "panics"]);
        waits.abort();
    }
}
