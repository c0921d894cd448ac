//! Work whose panic is an error of that work alone.

use tokio::task::JoinSet;

/// Work that panicked. Where and why is in the log of panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bug in this program, or in what it uses, ended the work on it; the panic is told above")]
pub struct Panicked;

/// Does `work` as a task of its own; a panic in it ends nothing else. Cancel-safe: dropping it cancels the work.
///
/// # Errors
/// [`Panicked`].
pub async fn contained<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Panicked> {
    let mut alone = JoinSet::new();
    alone.spawn(work);
    let ended = alone.join_next().await.expect("one was begun");
    ended.map_err(|error| {
        tracing::error!(%error, "work on one host panicked; that on the others goes on");
        Panicked
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_what_is_dropped_is_cancelled() {
        assert_eq!(contained(async { 3 }).await, Ok(3));
        assert_eq!(
            contained(async { panic!("a bug in a dependency") }).await,
            Err::<(), _>(Panicked)
        );
        // As of a blocking task, whose panic is passed on by whoever waits for it.
        let nested = async {
            let done = tokio::task::spawn_blocking(|| panic!("a bug")).await;
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        };
        assert_eq!(contained::<()>(nested).await, Err(Panicked));
        let (kept, gone) = tokio::sync::oneshot::channel::<()>();
        let waiting = contained(async move {
            let _kept = kept;
            std::future::pending::<()>().await;
        });
        tokio::select! {
            biased;
            _ = waiting => {}
            () = tokio::task::yield_now() => {}
        }
        assert!(gone.await.is_err(), "the work was dropped with who waited");
    }
}
