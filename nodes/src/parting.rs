//! Parting: those who are connected now are asked to go elsewhere, and whoever comes later is served.
//!
//! A member that is drained stays up and answers; a client that knows no other node comes back and is not sent away again.

use tokio::sync::watch;

/// Asks, any number of times.
#[derive(Debug)]
pub struct Parting(watch::Sender<u64>);

impl Default for Parting {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Parting {
    /// Asks whoever is connected now.
    pub fn begin(&self) {
        self.0.send_modify(|asked| *asked = asked.wrapping_add(1));
    }

    /// Waits until it is asked, from this call on; at the end of the node, for ever.
    pub fn asked(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut asked = self.0.subscribe();
        async move {
            if asked.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_there_is_asked_and_who_comes_later_is_not() {
        let parting = Parting::default();
        let before = parting.asked();
        parting.begin();
        let after = parting.asked();
        before.await;
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), after).await;
        assert!(waited.is_err());
    }
}
