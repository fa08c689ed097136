//! This node's own certificate: one of a blank node until it is founded, then one that proves its number and founding.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;

use crate::{
    pki::{Authority, Identity, PkiError, server_config},
    types::Member,
};

/// Shared by all who dial and listen.
pub(super) struct Papers {
    authority: Arc<Authority>,
    held: ArcSwap<Held>,
}

struct Held {
    member: Option<Member>,
    identity: Identity,
    acceptor: TlsAcceptor,
}

impl Papers {
    /// # Errors
    /// `Issue` where no certificate can be made.
    pub(super) fn new(authority: Arc<Authority>, member: Option<Member>) -> Result<Self, PkiError> {
        let held = ArcSwap::from_pointee(Held::issue(&authority, member)?);
        Ok(Self { authority, held })
    }

    /// The node is this one from here on: new connections, both ways, say so.
    ///
    /// # Errors
    /// As `new`.
    pub(super) fn name(&self, member: Member) -> Result<(), PkiError> {
        if self.held.load().member != Some(member) {
            self.held.store(Arc::new(Held::issue(&self.authority, Some(member))?));
        }
        Ok(())
    }

    pub(super) fn identity(&self) -> Identity {
        self.held.load().identity.clone()
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.held.load().acceptor.clone()
    }
}

impl Held {
    fn issue(authority: &Authority, member: Option<Member>) -> Result<Self, PkiError> {
        let identity = authority.issue_storage(member)?;
        let acceptor = TlsAcceptor::from(server_config(&identity)?);
        Ok(Self { member, identity, acceptor })
    }
}
