//! One session with the kernel over /dev/fuse: each thread reads a request, has it understood (`abi`) and hands it on;
//! its reply is one write, from whichever thread knows the answer.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use nix::libc;

use super::{
    abi::{
        Header,
        decode::{self, Fault, Message},
        encode::Encoded,
        init::{self, Agreement, Terms},
    },
    callers,
    counters::Counters,
};
use crate::{
    limits,
    mount::{Caller, Request, Response},
    types::{Errno, Ino},
};

/// Room for the largest request: a WRITE, whose header and struct take less than a page.
const BUFFER_BYTES: usize = limits::FUSE_WRITE_BYTES_MAX as usize + 4096;

/// Who takes the kernel's requests. `unique` is the same when the kernel sends a request again.
pub(super) trait Ask: Send + Sync + 'static {
    /// `reply` is kept until the answer is known; it may be given before this returns.
    fn ask(&self, unique: u64, caller: Caller, request: Request, reply: Reply);

    fn forget(&self, inodes: Vec<(Ino, u64)>);

    /// The caller of this request was hit by a signal. `false` when no such request waits: it was answered, or another
    /// thread has not handed it on yet.
    fn interrupt(&self, unique: u64) -> bool;
}

/// A request that has not been answered.
#[derive(Debug)]
pub(super) struct Reply {
    device: Arc<File>,
    /// As the kernel gave it.
    unique: u64,
}

impl Reply {
    /// Answers the kernel.
    pub(super) fn answer(self, result: Result<Response, Errno>) {
        let Err(error) = send(&self.device, &Encoded::new(self.unique, result)) else { return };
        match error.raw_os_error() {
            // The caller is gone, or the mount is.
            Some(libc::ENOENT | libc::ENODEV | libc::ENOTCONN | libc::EPERM) => {}
            _ => {
                tracing::error!(%error, "the kernel refused an answer; the caller gets EIO");
                // Where the kernel has ended the request by itself it does not know it any more.
                send(&self.device, &Encoded::new(self.unique, Err(Errno::EIO))).ok();
            }
        }
    }
}

/// A session whose INIT is done.
pub(super) struct Session<A> {
    device: Arc<File>,
    agreement: Agreement,
    asked: Arc<A>,
    counters: Arc<Counters>,
}

impl<A: Ask> Session<A> {
    /// Waits for the kernel's INIT and answers it.
    ///
    /// # Errors
    /// As read(2) and write(2) of the device; `Unsupported` for a kernel that is too old; `InvalidData` for a first
    /// request that is not INIT.
    pub(super) fn begin(device: OwnedFd, asked: Arc<A>, counters: Arc<Counters>, terms: Terms) -> io::Result<Self> {
        let device = Arc::new(File::from(device));
        let agreement = negotiate(&device, terms)?;
        Ok(Self { device, agreement, asked, counters })
    }

    /// A duplicate of the descriptor, for notifications.
    pub(super) fn device(&self) -> io::Result<OwnedFd> {
        self.device.try_clone().map(OwnedFd::from)
    }

    /// The version of the kernel's protocol: major and minor.
    pub(super) const fn version(&self) -> (u32, u32) {
        (init::MAJOR, self.agreement.minor)
    }

    /// Takes requests until the file system is unmounted; to be called from as many threads as are to take them.
    ///
    /// # Errors
    /// As read(2) of the device.
    pub(super) fn serve(&self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some(message) = receive(&self.device, &mut buffer)? {
            self.take(message);
        }
        Ok(())
    }

    fn take(&self, message: &[u8]) {
        let Some((mut header, body)) = Header::parse(message) else {
            self.counters.malformed.fetch_add(1, Relaxed);
            return tracing::error!(bytes = message.len(), "the kernel sent less than a header");
        };
        self.counters.upcall(decode::upcall(header.opcode));
        header.caller = callers::found(&header);
        let reply = Reply { device: Arc::clone(&self.device), unique: header.unique };
        match decode::decode(&header, body, self.agreement) {
            Ok(Message::Request(request)) => self.asked.ask(header.request(), header.caller, request, reply),
            Ok(Message::Forget(inodes)) => self.asked.forget(inodes),
            Ok(Message::Interrupt { unique }) => {
                // EAGAIN has the kernel say it again, unless the request was answered meanwhile.
                if !self.asked.interrupt(unique) {
                    reply.answer(Err(Errno::EAGAIN));
                }
            }
            Ok(Message::Acknowledge) => reply.answer(Ok(Response::Done)),
            Ok(Message::Nothing) => {}
            // A session begins once.
            Ok(Message::Init(_)) => reply.answer(Err(Errno::EIO)),
            Err(Fault::Refused(errno)) => reply.answer(Err(errno)),
            Err(Fault::Malformed) => {
                self.counters.malformed.fetch_add(1, Relaxed);
                tracing::error!(
                    opcode = header.opcode,
                    bytes = message.len(),
                    "a request of the kernel makes no sense"
                );
                reply.answer(Err(Errno::EIO));
            }
        }
    }
}

fn negotiate(device: &File, terms: Terms) -> io::Result<Agreement> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let message = receive(device, &mut buffer)?.ok_or(io::ErrorKind::NotConnected)?;
        let init = Header::parse(message).and_then(|(header, body)| {
            let message = decode::decode(&header, body, Agreement::NONE).ok()?;
            if let Message::Init(offer) = message { Some((header.unique, offer)) } else { None }
        });
        let Some((unique, offer)) = init else {
            let what = format!("the kernel's first request is not INIT ({} bytes)", message.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        if offer.major > init::MAJOR {
            send(device, &Encoded::with_body(unique, &init::our_version()))?;
            continue;
        }
        if (offer.major, offer.minor) < (init::MAJOR, init::MINOR_MIN) {
            let what = format!(
                "the kernel speaks version {}.{} of FUSE; at least {}.{} is needed (Linux 5.4)",
                offer.major,
                offer.minor,
                init::MAJOR,
                init::MINOR_MIN
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let agreement = Agreement::with(offer, terms);
        send(device, &Encoded::with_body(unique, &agreement.encode()))?;
        return Ok(agreement);
    }
}

/// The next message; `None` when the file system is unmounted.
fn receive<'a>(mut device: &File, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    loop {
        match device.read(buffer) {
            // Only a socket ends so, which stands for the device in tests.
            Ok(0) => return Ok(None),
            Ok(length) => return Ok(Some(&buffer[..length])),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENODEV) => return Ok(None),
                // ENOENT: the caller gave the request up while it was being read.
                Some(libc::EINTR | libc::EAGAIN | libc::ENOENT) => {}
                _ => return Err(error),
            },
        }
    }
}

/// A reply is taken whole or not at all.
fn send(mut device: &File, reply: &Encoded) -> io::Result<()> {
    let slices = reply.slices();
    let taken = device.write_vectored(&slices)?;
    debug_assert_eq!(taken, slices.iter().map(|slice| slice.len()).sum::<usize>());
    Ok(())
}

#[cfg(test)]
mod tests;
