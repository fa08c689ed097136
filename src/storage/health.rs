//! Whether the store can go on, and how its threads say what they did.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    thread::{self, JoinHandle},
};

use super::{OnEvent, StorageError, StorageEvent};

/// Shared by all threads of a store.
pub(crate) struct Health {
    failed: OnceLock<StorageError>,
    on_event: OnEvent,
}

impl Health {
    pub(crate) fn new(on_event: OnEvent) -> Arc<Self> {
        Arc::new(Self { failed: OnceLock::new(), on_event })
    }

    /// Reports the event, unless the store has failed before.
    pub(crate) fn report(&self, event: StorageEvent) {
        if self.failed.get().is_none() {
            (self.on_event)(event);
        }
    }

    /// The store cannot go on. Only the first error is reported; it is what all later calls get.
    pub(crate) fn fail(&self, error: StorageError) {
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!("the store stops: {error}");
            (self.on_event)(StorageEvent::Failed(error));
        }
    }

    pub(crate) fn check(&self) -> Result<(), StorageError> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// A thread whose error, or panic, fails the store.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        run: impl FnOnce() -> Result<(), StorageError> + Send + 'static,
    ) -> Result<JoinHandle<()>, StorageError> {
        let health = Arc::clone(self);
        let body = move || {
            let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let found = text.or_else(|| panic.downcast_ref().copied()).unwrap_or("no message").to_owned();
                Err(StorageError::Panicked { thread: name, found })
            });
            if let Err(error) = ended {
                health.fail(error);
            }
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|error| StorageError::io("started", std::path::Path::new(name), error))
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").field("failed", &self.failed).finish_non_exhaustive()
    }
}
