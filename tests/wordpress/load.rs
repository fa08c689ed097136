//! Visitors and administrators through the balancer, all at once, and an account of every request.
//!
//! A request has failed at a status of 400 or more, a body that is short or lacks its end or differs from what it was
//! before, or after 5 s.

use super::admin::Admin;
use super::deadline::wait_for;
use super::http::{Broken, Client, Response};
use super::media::{Media, Picture};
use super::plugin::{self, Plugin};
use super::theme::Theme;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A request that took longer has failed, however good its answer is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The client waits longer than the visitor would, so that the account says how long it really was.
pub(crate) const CLIENT_LIMIT: Duration = Duration::from_secs(60);
const CLIENTS: u32 = 4;
/// Files of the plugin that one page runs; the page that runs all of them belongs to no visitor.
const PLUGIN_FILES: u32 = 60;

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    FrontPage,
    MediaFile,
    PluginPage,
    Upload,
}

/// One request, judged.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) failure: Option<String>,
}

/// What the clients ask for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The balancer's visitor.
    pub(crate) visitor: Client,
    pub(crate) admin: Admin,
    pub(crate) theme: Theme,
    pub(crate) plugin: Plugin,
    pub(crate) picture: Picture,
    /// Files that exist when the load begins.
    pub(crate) gallery: Vec<Exhibit>,
}

/// A media file and what it must be.
#[derive(Debug, Clone)]
pub(crate) struct Exhibit {
    pub(crate) path: String,
    pub(crate) checksum: u32,
}

/// What must be done before something else is done to the cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    pub(crate) requests: usize,
    /// Of those.
    pub(crate) uploads: usize,
    pub(crate) time_min: Duration,
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    start: Instant,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    start: Instant,
    end: Instant,
    pub(crate) requests: Vec<Request>,
    events: Vec<(Instant, String)>,
    /// Every medium whose upload was acknowledged.
    pub(crate) uploaded: Vec<Media>,
    /// Every media file seen, with its checksum.
    pub(crate) gallery: Vec<Exhibit>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    requests: Vec<Request>,
    events: Vec<(Instant, String)>,
    uploaded: Vec<Media>,
    gallery: Vec<Exhibit>,
}

impl Load {
    pub(crate) fn start(plan: &Plan) -> Self {
        let account = Account { gallery: plan.gallery.clone(), ..Account::default() };
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), account: Mutex::new(account) });
        let clients = (0..CLIENTS)
            .map(|number| {
                let shared = Arc::clone(&shared);
                let plan = plan.clone();
                std::thread::spawn(move || work(number, plan, &shared))
            })
            .collect();
        Self { shared, clients, start: Instant::now() }
    }

    /// Notes something that was done to the cluster, now.
    pub(crate) fn mark(&self, what: &str) {
        self.shared.account().events.push((Instant::now(), what.to_owned()));
    }

    /// Waits until a phase is over, counting only what *began* from now on and ended well.
    ///
    /// # Panics
    /// When that takes longer than `limit`, with the account so far.
    pub(crate) fn go_on(&self, phase: Phase, limit: Duration) {
        let from = Instant::now();
        wait_for("the load to go on", limit + Duration::from_secs(1), || {
            let account = self.shared.account();
            let good = || account.requests.iter().filter(|request| request.start >= from && request.failure.is_none());
            let uploads = good().filter(|request| request.kind == Kind::Upload).count();
            let requests = good().count();
            let elapsed = from.elapsed();
            if requests >= phase.requests && uploads >= phase.uploads && elapsed >= phase.time_min {
                return Some(());
            }
            assert!(
                elapsed < limit,
                "in {} s only {requests} requests and {uploads} uploads ended well, of {phase:?}\n{}",
                limit.as_secs(),
                self.report_of(&account)
            );
            None
        });
    }

    /// Stops the clients after the request each is at.
    pub(crate) fn finish(mut self) -> Report {
        self.stop();
        self.report_of(&self.shared.account())
    }

    fn report_of(&self, account: &Account) -> Report {
        Report {
            start: self.start,
            end: Instant::now(),
            requests: account.requests.clone(),
            events: account.events.clone(),
            uploaded: account.uploaded.clone(),
            gallery: account.gallery.clone(),
        }
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            if client.join().is_err() {
                self.shared.account().events.push((Instant::now(), "a client of the load panicked".to_owned()));
            }
        }
    }
}

impl Drop for Load {
    /// A failed scenario leaves by here: its clients must not outlive the servers they ask.
    fn drop(&mut self) {
        self.stop();
    }
}

impl Report {
    pub(crate) fn failures(&self) -> Vec<&Request> {
        self.requests.iter().filter(|request| request.failure.is_some()).collect()
    }

    /// Longest time without the good end of a request that `counts`, from the load's begin to its end.
    pub(crate) fn longest_gap(&self, counts: impl Fn(&Request) -> bool) -> Duration {
        let good = self.requests.iter().filter(|request| request.failure.is_none() && counts(request));
        let mut ends: Vec<Instant> = good.map(|request| request.end).collect();
        ends.sort();
        let later = ends.iter().copied().chain([self.end]);
        let earlier = [self.start].into_iter().chain(ends.iter().copied());
        later.zip(earlier).map(|(later, earlier)| later.saturating_duration_since(earlier)).max().unwrap_or_default()
    }

    /// The last event before `moment`, and how long before.
    fn context(&self, moment: Instant) -> String {
        let event = self.events.iter().rev().find(|(at, _)| *at <= moment);
        match event {
            Some((at, what)) => format!("{:.2} s after {what}", (moment - *at).as_secs_f64()),
            None => format!("{:.2} s after the begin", moment.saturating_duration_since(self.start).as_secs_f64()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failures = self.failures();
        let uploads = self.requests.iter().filter(|request| request.kind == Kind::Upload).count();
        write!(
            out,
            "load: {} requests ({uploads} uploads) of {CLIENTS} clients in {:.1} s, {} failed; ",
            self.requests.len(),
            (self.end - self.start).as_secs_f64(),
            failures.len(),
        )?;
        if let Some(longest) = self.requests.iter().max_by_key(|request| request.took()) {
            write!(
                out,
                "longest request {:.2} s ({:?}, begun {}); ",
                longest.took().as_secs_f64(),
                longest.kind,
                self.context(longest.start)
            )?;
        }
        write!(
            out,
            "longest gap without an answer {:.2} s, without an upload {:.2} s",
            self.longest_gap(|_| true).as_secs_f64(),
            self.longest_gap(|request| request.kind == Kind::Upload).as_secs_f64(),
        )?;
        let begin = [(self.start, "the begin".to_owned())];
        let marks: Vec<&(Instant, String)> = begin.iter().chain(&self.events).collect();
        for (index, (from, what)) in marks.iter().enumerate() {
            let until = marks.get(index + 1).map_or(self.end, |next| next.0);
            write!(out, "\n  from {what} for {:.1} s:", (until - *from).as_secs_f64())?;
            for kind in [Kind::FrontPage, Kind::MediaFile, Kind::PluginPage, Kind::Upload] {
                let all = self.requests.iter().filter(|request| request.kind == kind);
                let took: Vec<Duration> =
                    all.filter(|request| (*from..until).contains(&request.start)).map(Request::took).collect();
                let longest = took.iter().max().copied().unwrap_or_default();
                write!(out, " {kind:?} {} (longest {:.2} s)", took.len(), longest.as_secs_f64())?;
            }
        }
        for request in failures.iter().take(20) {
            let failure = request.failure.as_deref().unwrap_or_default();
            write!(out, "\n  failed: {:?} begun {}: {failure}", request.kind, self.context(request.start))?;
        }
        Ok(())
    }
}

impl Request {
    pub(crate) fn took(&self) -> Duration {
        self.end - self.start
    }
}

impl Shared {
    fn account(&self) -> MutexGuard<'_, Account> {
        // A client that panicked is reported by its join; what it had written is whole.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes one request and judges it; the body is handed out only when the answer is good.
pub(crate) fn attempt(
    kind: Kind,
    ask: impl FnOnce() -> Result<Response, Broken>,
    check: impl FnOnce(&Response) -> Result<(), String>,
) -> (Request, Option<Response>) {
    let start = Instant::now();
    let answer = ask();
    let end = Instant::now();
    let verdict = match answer {
        Err(broken) => Err(broken.0),
        Ok(answer) if answer.status >= 300 => Err(format!("status {} of pod {:?}", answer.status, answer.pod)),
        Ok(answer) => check(&answer).map(|()| answer),
    };
    let verdict = match verdict {
        Ok(_) if end - start > PATIENCE => Err(format!("took {:.2} s", (end - start).as_secs_f64())),
        other => other,
    };
    match verdict {
        Ok(answer) => (Request { kind, start, end, failure: None }, Some(answer)),
        Err(failure) => (Request { kind, start, end, failure: Some(failure) }, None),
    }
}

/// One client, until it is told to stop.
fn work(number: u32, mut plan: Plan, shared: &Shared) {
    for step in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // Each client begins elsewhere in the same round of ten: three pages of each kind and one upload.
        match (step + 3 * number) % 10 {
            0 => upload(&mut plan, shared, &format!("load-{number}-{step}.jpg")),
            1 | 4 | 7 => front_page(&mut plan, shared),
            2 | 5 | 8 => media_file(&mut plan, shared, step),
            _ => plugin_page(&mut plan, shared),
        }
    }
}

fn front_page(plan: &mut Plan, shared: &Shared) {
    let theme = plan.theme;
    let (request, _) =
        attempt(Kind::FrontPage, || plan.visitor.get("/"), |answer| theme.check_front_page(&answer.text()));
    shared.account().requests.push(request);
}

fn media_file(plan: &mut Plan, shared: &Shared, step: u32) {
    let exhibit = {
        let account = shared.account();
        account.gallery[(step as usize * 7) % account.gallery.len()].clone()
    };
    let (request, _) = attempt(
        Kind::MediaFile,
        || plan.visitor.get(&exhibit.path),
        |answer| {
            if crc32fast::hash(&answer.body) == exhibit.checksum {
                return Ok(());
            }
            Err(format!("{} at pod {:?} has other bytes than before", exhibit.path, answer.pod))
        },
    );
    shared.account().requests.push(request);
}

fn plugin_page(plan: &mut Plan, shared: &Shared) {
    let expected = plan.plugin.proof(PLUGIN_FILES);
    let (request, _) = attempt(
        Kind::PluginPage,
        || plan.visitor.get(&plugin::page(PLUGIN_FILES)),
        |answer| {
            let found = plugin::Proof { cached: 0, ..plugin::read(&answer.body)? };
            if found == expected { Ok(()) } else { Err(format!("the plugin's page says {found:?}")) }
        },
    );
    shared.account().requests.push(request);
}

/// Uploads a picture and at once fetches every size of it: the balancer gives half of them to the other pod.
fn upload(plan: &mut Plan, shared: &Shared, file_name: &str) {
    let Plan { admin, picture, visitor, .. } = plan;
    let mut uploaded = None;
    let ask = || {
        let (media, answer) = admin.upload(file_name, picture.content_type, picture.bytes.clone()).map_err(Broken)?;
        uploaded = Some(media);
        Ok(answer)
    };
    let (request, _) = attempt(Kind::Upload, ask, |_| Ok(()));
    shared.account().requests.push(request);
    let Some(media) = uploaded else { return };
    for file in &media.files {
        let (request, answer) = attempt(
            Kind::MediaFile,
            || visitor.get(&file.path),
            |answer| {
                let found = super::media::dimensions(&answer.body);
                if found.is_some() && (file.dimensions.is_none() || found == file.dimensions) {
                    return Ok(());
                }
                Err(format!("{} at pod {:?} is not the picture that was uploaded", file.path, answer.pod))
            },
        );
        let mut account = shared.account();
        account.requests.push(request);
        if let Some(answer) = answer {
            account.gallery.push(Exhibit { path: file.path.clone(), checksum: crc32fast::hash(&answer.body) });
        }
    }
    shared.account().uploaded.push(media);
}
