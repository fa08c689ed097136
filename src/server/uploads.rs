//! Room in memory for content on its way to or from this store. A request is read only when there is room for it. What
//! is not read stays with its sender, by HTTP/2's windows.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use super::listener::Caller;
use crate::{
    limits::{TRANSFERS_MAX, TRANSFERS_PER_CREDENTIAL_MAX},
    types::CredentialId,
};

/// How long one transfer may take, the wait for its turn included: mounts give up after as long.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The service of blocks behind a door that lets in as many requests as there is memory for, of one credential no more than
/// leaves room for others.
#[derive(Clone)]
pub(super) struct Bounded<S> {
    inner: S,
    room: Arc<Room>,
}

struct Room {
    all: Arc<Semaphore>,
    /// Of the credentials that have requests.
    by_credential: Mutex<BTreeMap<CredentialId, Arc<Semaphore>>>,
}

impl<S> Bounded<S> {
    pub(super) fn new(inner: S) -> Self {
        let all = Arc::new(Semaphore::new(TRANSFERS_MAX));
        Self { inner, room: Arc::new(Room { all, by_credential: Mutex::default() }) }
    }
}

impl Room {
    /// Waits for the credential's turn first, so that its own crowd keeps nobody else out.
    async fn enter(self: Arc<Self>, credential: CredentialId) -> Option<Entered> {
        let own = self.own(credential);
        let mine = own.clone().acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Entered { _all: all, mine: Some(mine), credential, room: self })
    }

    fn own(&self, credential: CredentialId) -> Arc<Semaphore> {
        let new = || Arc::new(Semaphore::new(TRANSFERS_PER_CREDENTIAL_MAX));
        self.lock().entry(credential).or_insert_with(new).clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<CredentialId, Arc<Semaphore>>> {
        // Nothing that could be half done happens under the lock.
        self.by_credential.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is let in; dropped, its room is free.
struct Entered {
    _all: OwnedSemaphorePermit,
    mine: Option<OwnedSemaphorePermit>,
    credential: CredentialId,
    room: Arc<Room>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.mine = None;
        let mut credentials = self.room.lock();
        // Nobody else waits for it or is in it: the map holds those that are busy.
        if credentials.get(&self.credential).is_some_and(|own| Arc::strong_count(own) == 1) {
            credentials.remove(&self.credential);
        }
    }
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Bounded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut inner, room) = (self.inner.clone(), self.room.clone());
        Box::pin(async move {
            let Some(caller) = request.extensions().get::<Caller>().cloned() else {
                return Ok(Status::internal("the connection has no principal").into_http());
            };
            let carried_out = async {
                let entered = room.enter(caller.credential).await;
                match entered {
                    Some(_entered) => inner.call(request).await,
                    None => Ok(Status::unavailable("this node is stopping; ask another").into_http()),
                }
            };
            tokio::time::timeout(TIMEOUT, carried_out).await.unwrap_or_else(|_| {
                let sentence = format!("the request was not carried out within {} s", TIMEOUT.as_secs());
                Ok(Status::unavailable(sentence).into_http())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(all: usize) -> Arc<Room> {
        Arc::new(Room { all: Arc::new(Semaphore::new(all)), by_credential: Mutex::default() })
    }

    #[tokio::test]
    async fn one_credentials_crowd_waits_for_itself_alone() {
        let room = room(TRANSFERS_PER_CREDENTIAL_MAX + 1);
        let mut inside = Vec::new();
        for _ in 0..TRANSFERS_PER_CREDENTIAL_MAX {
            inside.push(room.clone().enter(CredentialId(1)).await.expect("open"));
        }
        let next = tokio::spawn(room.clone().enter(CredentialId(1)));
        let other = room.clone().enter(CredentialId(2)).await.expect("room for another");
        assert!(!next.is_finished());
        drop(inside.pop());
        let next = next.await.expect("no panic").expect("open");
        drop((inside, next, other));
        assert!(room.lock().is_empty(), "nobody is remembered");
    }
}
