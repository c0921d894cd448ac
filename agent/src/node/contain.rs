//! What is done for one peer, in a task of its own, so that a bug which it finds ends that and no more.

use scap_proto::id::NodeId;
use tokio_util::task::AbortOnDropHandle;

/// Runs `future`, and returns `None` where it panicked: said once, as an error, since somebody must look at it. Dropping
/// what is returned ends it.
pub(crate) async fn contained<F>(what: &'static str, peer: NodeId, future: F) -> Option<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match AbortOnDropHandle::new(tokio::spawn(future)).await {
        Ok(output) => Some(output),
        Err(error) => {
            // Else the runtime is going down.
            if error.is_panic() {
                tracing::error!(%peer, what, "a bug: what was done for a peer panicked, and ends");
            }
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn d5_a_panic_in_what_is_done_for_a_peer_is_its_end_and_not_that_of_the_others() {
        let peer = |name: &str| -> NodeId { name.parse().unwrap() };
        let mut links = JoinSet::new();
        links.spawn(contained("a session", peer("evil"), async {
            let said: Vec<u32> = std::env::args().skip(1000).map(|_| 7).collect();
            said[0]
        }));
        links.spawn(contained("a session", peer("good"), async {
            tokio::task::yield_now().await;
            7
        }));
        let mut ended = Vec::new();
        while let Some(one) = links.join_next().await {
            ended.push(one.unwrap());
        }
        ended.sort_unstable();
        assert_eq!(ended, [None, Some(7)]);
    }

    #[tokio::test]
    async fn what_is_dropped_ends() {
        let held = Arc::new(());
        let inside = held.clone();
        let forever = contained("a session", "peer".parse().unwrap(), async move {
            let _inside = inside;
            std::future::pending::<()>().await;
        });
        let _ = tokio::time::timeout(Duration::from_millis(10), forever).await;
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
