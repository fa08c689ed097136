//! What holder and worker say to each other: one packet a message, in JSON, with a descriptor beside it where needed.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::socket::{
        self, AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    descriptor,
    socket_file::{SocketError, SocketFile},
};

/// Bytes of the largest message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// From a worker to its holder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToHolder {
    /// Nothing can be mounted yet: what is wrong with a server.
    Waiting { reason: String },
    /// The volume is here: mount it, or pass on the device of the predecessor.
    Ready { volume: String, read_only: bool },
    /// The kernel's requests are being answered.
    Serving { pid: u32 },
    /// The mount cannot be, or cannot go on.
    Failed { reason: String },
    /// Everything is flushed and the session is left, as it was asked to; the worker ends.
    Stopped,
    /// Somebody unmounted the file system; everything is flushed, the session is left, the worker ends.
    Unmounted,
}

/// From a holder to its worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// Comes with the device. `fresh`: the kernel's INIT waits in it; otherwise a predecessor has answered that.
    Device { fresh: bool },
    /// The mount answers. `inval_entry`: its kernel forgets a missing name when it is told to.
    Probed { inval_entry: bool },
    /// Flush, leave, end.
    Stop,
    /// SIGHUP has come.
    Hangup,
    /// First of all: where the mount is, or will be.
    Place { directory: PathBuf },
    /// Comes with the table that the holder watches, before the device.
    Table,
}

/// One end of a connection between holder and worker.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Both ends of a new connection.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn pair() -> io::Result<(Self, Self)> {
        let (here, there) = socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(here), Self(there)))
    }

    /// The worker's end of a holder that listens at `path`.
    ///
    /// # Errors
    /// As connect(2); a path of more than 107 bytes is refused.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let (end, address) = named(path)?;
        socket::connect(end.as_raw_fd(), &address)?;
        Ok(Self(end))
    }

    /// An end that was inherited, such as standard input of a worker.
    #[must_use]
    pub const fn inherited(end: OwnedFd) -> Self {
        Self(end)
    }

    /// A second handle of the same end.
    ///
    /// # Errors
    /// As dup(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends one message and, with it, a copy of `descriptor`.
    ///
    /// # Errors
    /// As sendmsg(2): EPIPE when the other end is gone.
    pub fn send(&self, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[] } else { &rights[..] };
        let parts = [IoSlice::new(&bytes)];
        socket::sendmsg::<UnixAddr>(self.0.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Waits for the next message; `None` when the other end is gone.
    ///
    /// # Errors
    /// As recvmsg(2); `InvalidData` for a message that makes no sense to this program.
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Option<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut control = nix::cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match socket::recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                // The other end is gone and had not read everything, which is said before what it had sent.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                received => break received?,
            }
        };
        let mut descriptor = None;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                // All are owned, so that none stays open unseen; one is all that is ever sent.
                for raw in raw {
                    descriptor = Some(descriptor::own(raw));
                }
            }
        }
        let length = received.bytes;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes[..length])?, descriptor)))
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.0
    }
}

/// Where workers of a holder in a container of its own connect.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens at `path`; what a holder that ended left there is replaced.
    ///
    /// # Errors
    /// As `SocketFile::make`.
    pub fn bind(path: &Path) -> Result<(SocketFile, Self), SocketError> {
        SocketFile::make(path, |path| {
            let (end, address) = named(path)?;
            socket::bind(end.as_raw_fd(), &address)?;
            socket::listen(&end, Backlog::new(4)?)?;
            Ok(Self(end))
        })
    }

    /// Waits for the next worker.
    ///
    /// # Errors
    /// As accept(2).
    pub fn accept(&self) -> io::Result<Link> {
        loop {
            match socket::accept4(self.0.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                accepted => return Ok(Link(descriptor::own(accepted?))),
            }
        }
    }
}

fn named(path: &Path) -> io::Result<(OwnedFd, UnixAddr)> {
    let address = UnixAddr::new(path)?;
    let end = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    Ok((end, address))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use super::*;

    #[test]
    fn a_descriptor_travels_with_its_message() {
        let (holder, worker) = Link::pair().expect("socketpair");
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        holder.send(&ToWorker::Device { fresh: true }, Some(reader.as_fd())).expect("send");
        holder.send(&ToWorker::Stop, None).expect("send");
        drop(reader);
        let (message, descriptor) = worker.receive::<ToWorker>().expect("receive").expect("a message");
        assert_eq!(message, ToWorker::Device { fresh: true });
        writer.write_all(b"through the copy").expect("the copy keeps the pipe open");
        drop(writer);
        let mut text = String::new();
        File::from(descriptor.expect("a descriptor")).read_to_string(&mut text).expect("readable");
        assert_eq!(text, "through the copy");
        let (message, descriptor) = worker.receive::<ToWorker>().expect("receive").expect("a message");
        assert_eq!((message, descriptor.is_none()), (ToWorker::Stop, true));
        drop(holder);
        assert!(worker.receive::<ToWorker>().expect("the end is no error").is_none());
    }

    #[test]
    fn a_worker_finds_its_holder_by_path() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("holder");
        for _ in 0..2 {
            // The second round finds the socket that the first one left.
            let (file, listener) = Listener::bind(&path).expect("bind");
            // As a holder that was killed leaves it.
            std::mem::forget(file);
            let worker = Link::connect(&path).expect("connect");
            let holder = listener.accept().expect("accept");
            worker.send(&ToHolder::Serving { pid: 7 }, None).expect("send");
            let (message, _) = holder.receive::<ToHolder>().expect("receive").expect("a message");
            assert_eq!(message, ToHolder::Serving { pid: 7 });
        }
    }

    /// Why a mount failed was lost where its worker ended without having read all that it was told.
    #[test]
    fn last_words_arrive_though_something_was_left_unread() {
        let (holder, worker) = Link::pair().expect("socketpair");
        holder.send(&ToWorker::Stop, None).expect("send");
        worker.send(&ToHolder::Stopped, None).expect("send");
        drop(worker);
        let (message, _) = holder.receive::<ToHolder>().expect("receive").expect("a message");
        assert_eq!(message, ToHolder::Stopped);
        assert!(holder.receive::<ToHolder>().expect("the end is no error").is_none());
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let (holder, worker) = Link::pair().expect("socketpair");
        holder.send(&"hello", None).expect("send");
        assert_eq!(worker.receive::<ToWorker>().expect_err("refused").kind(), io::ErrorKind::InvalidData);
    }
}
