//! What is done to the site, step by step, and what must be seen at the other pod at once.
//!
//! "At once" is meant literally: the other pod is asked by the next request, nothing waits in between.

use super::admin::{Admin, excerpt};
use super::deadline::wait_for;
use super::ground::Ground;
use super::load::{Exhibit, Load, Phase, Plan, Report};
use super::media::{Media, MediaFile, Picture};
use super::plugin::{self, CLASSES, Plugin, Proof};
use super::requirements::Requirements;
use super::site::{Site, Workshop};
use super::theme::Theme;
use std::time::{Duration, Instant};

const A: usize = 0;
const B: usize = 1;
/// Files that WordPress makes of a picture as large as ours: thumbnail, medium, medium_large, large, 1536x1536,
/// 2048x2048 and full.
const SIZES_MIN: usize = 7;
/// What must begin and end well after each thing done to the cluster, and how long the load goes on at least: longer
/// than an election, so that it is felt, and uploads, because only what is written needs a leader.
const PHASE: Phase = Phase { requests: 80, uploads: 4, time_min: Duration::from_secs(4) };
const LOAD_LIMIT: Duration = Duration::from_secs(90);
const OPCACHE_LIMIT: Duration = Duration::from_secs(30);

/// The site and its administrator. Fields end in the order they stand: the site before the mounts, those before the
/// directory that holds them.
#[derive(Debug)]
pub(crate) struct Scenario {
    admin: Admin,
    site: Site,
    ground: Ground,
    workshop: Workshop,
    requirements: Requirements,
    clock: Clock,
}

/// Says what is done and how long it took.
#[derive(Debug)]
struct Clock {
    start: Instant,
    lap: Instant,
}

impl Scenario {
    /// Starts everything and installs WordPress. `None`: the machine lacks something.
    pub(crate) fn begin() -> Option<Self> {
        let mut clock = Clock { start: Instant::now(), lap: Instant::now() };
        let requirements = Requirements::of_this_machine()?;
        let workshop = Workshop::new();
        let ground = Ground::start(&requirements, &workshop.folder("cluster"), &workshop.logs());
        clock.lap("two mounts of one volume");
        let site = Site::start(&requirements, &workshop, ground.mounts());
        clock.lap("database, wp-content copied in, two pods, balancer");
        let admin = site.install();
        clock.lap("WordPress installed");
        Some(Self { admin, site, ground, workshop, requirements, clock })
    }

    /// Every size of a picture uploaded at one pod comes whole from the other, in both directions.
    pub(crate) fn uploads_are_whole_at_the_other_pod(&mut self) -> [Media; 2] {
        let jpeg = self.draw("first.jpg", 2600, 1800, 1);
        let first = self.upload_and_compare(A, B, &jpeg);
        self.clock.lap("a JPEG uploaded at A, each of its files fetched at B");
        // Now A asks for what does not exist yet, so that its kernel remembers the names as missing.
        let png = self.draw("second.png", 2600, 1800, 2);
        let mut visitor = self.site.visitor(A);
        let expected: Vec<MediaFile> =
            first.files.iter().map(|file| renamed(file, "first", "second", ".png")).collect();
        for file in &expected {
            file.assert_missing(&mut visitor);
        }
        let second = self.upload_and_compare(B, A, &png);
        let came_true = |file: &&MediaFile| expected.iter().any(|foretold| foretold.path == file.path);
        let foretold = second.files.iter().filter(came_true).count();
        assert!(foretold >= SIZES_MIN - 1, "missing names were asked for under other paths: {expected:?}");
        self.clock.lap("a PNG uploaded at B, each of its files fetched at A, where its names were known as missing");
        [first, second]
    }

    /// A plugin of thousands of files runs at the other pod, and so does its next version, in spite of opcache.
    pub(crate) fn plugin_is_at_the_other_pod(&mut self) {
        let before = plugin::ask(&mut self.site.visitor(B), CLASSES);
        assert!(before.is_err(), "the plugin answers before it is installed: {before:?}");
        let zip = Plugin::FIRST.zip(&self.requirements, &self.workshop.folder("pictures-and-zips"));
        self.clock.lap("plugin packed");

        let mut admin = self.admin.at(self.site.pod(A));
        let answer = admin.upload_plugin(&zip);
        assert!(answer.contains("Plugin installed successfully"), "not installed:\n{}", excerpt(&answer));
        self.clock.lap(&format!("a plugin of {CLASSES} PHP files installed at A"));
        let answer = admin.press(&answer, &["plugins.php?action=activate"]);
        assert!(answer.contains("Plugin activated"), "not activated:\n{}", excerpt(&answer));
        self.assert_plugin(B, Plugin::FIRST);
        self.assert_plugin(A, Plugin::FIRST);
        for pod in [A, B] {
            // PHP caches no file that is younger than two seconds; the update below must meet full caches.
            wait_for("every file of the plugin to be in opcache", OPCACHE_LIMIT, || {
                plugin::ask(&mut self.site.visitor(pod), CLASSES).ok().filter(|proof| proof.cached == CLASSES)
            });
        }
        self.clock.lap("activated, and run whole at B and A until both had compiled all of it");

        let zip = Plugin::SECOND.zip(&self.requirements, &self.workshop.folder("pictures-and-zips"));
        let answer = admin.upload_plugin(&zip);
        assert!(answer.contains("This plugin is already installed"), "no comparison:\n{}", excerpt(&answer));
        // The zip lies in uploads now, put there by A; the button is pressed at B.
        let mut admin = self.admin.at(self.site.pod(B));
        let answer = admin.press(&answer, &["overwrite=update-plugin"]);
        assert!(answer.contains("Plugin updated successfully"), "not updated:\n{}", excerpt(&answer));
        self.assert_plugin(A, Plugin::SECOND);
        self.assert_plugin(B, Plugin::SECOND);
        self.clock.lap("its next version uploaded at A, confirmed at B, run whole at A and B");
    }

    /// A theme installed at one pod and switched to at the other is served by both.
    pub(crate) fn theme_is_at_both_pods(&mut self) {
        for pod in [A, B] {
            self.assert_theme(pod, Theme::FIRST);
        }
        let zip = Theme::SECOND.zip(&self.requirements, &self.workshop.folder("pictures-and-zips"));
        let answer = self.admin.at(self.site.pod(B)).upload_theme(&zip);
        assert!(answer.contains("Theme installed successfully"), "not installed:\n{}", excerpt(&answer));
        self.admin.at(self.site.pod(A)).switch_theme(Theme::SECOND.name);
        for pod in [B, A] {
            self.assert_theme(pod, Theme::SECOND);
        }
        self.clock.lap("a theme installed at B, switched to at A, served by both");
    }

    /// What is deleted at one pod is gone at the other, where it was just served.
    pub(crate) fn deleted_media_are_gone_at_the_other_pod(&mut self, media: &Media) {
        let mut at_a = self.site.visitor(A);
        let mut at_b = self.site.visitor(B);
        for file in &media.files {
            file.fetch(&mut at_b);
        }
        self.admin.at(self.site.pod(A)).delete(media);
        for file in &media.files {
            file.assert_missing(&mut at_b);
            file.assert_missing(&mut at_a);
        }
        self.clock.lap("media deleted at A, missing at B");
    }

    /// Under load the leader and then a follower are killed and started again: no request fails, nothing is lost.
    pub(crate) fn killed_storage_nodes_cost_no_request(&mut self, media: &Media) {
        let mut visitor = self.site.visitor(A);
        let exhibit =
            |file: &MediaFile, bytes: &[u8]| Exhibit { path: file.path.clone(), checksum: crc32fast::hash(bytes) };
        let gallery = media.files.iter().map(|file| exhibit(file, &file.fetch(&mut visitor))).collect();
        let plan = Plan {
            visitor: self.site.visitor_of_balancer(),
            admin: self.admin.at(self.site.balancer()),
            theme: Theme::SECOND,
            plugin: Plugin::SECOND,
            picture: self.draw("load.jpg", 480, 360, 3),
            gallery,
        };
        let load = Load::start(&plan);
        load.go_on(PHASE, LOAD_LIMIT);
        match &mut self.ground {
            Ground::ManyFs(cluster) => {
                for leader in [true, false] {
                    let role = if leader { "the leader" } else { "a follower" };
                    let node = if leader { cluster.kill_leader() } else { cluster.kill_follower() };
                    load.mark(&format!("kill -9 of {role} (node {})", node.id));
                    load.go_on(PHASE, LOAD_LIMIT);
                    load.mark(&format!("the restart of node {}", node.id));
                    cluster.restart(&node);
                    load.go_on(PHASE, LOAD_LIMIT);
                }
            }
            Ground::Reference(_) => load.go_on(PHASE, LOAD_LIMIT),
        }
        let report = load.finish();
        println!("wordpress: {report}");
        assert!(report.failures().is_empty(), "{} requests failed, see above", report.failures().len());
        self.clock.lap("load");
        self.assert_nothing_lost(&report);
        self.clock.lap("everything uploaded under load compared at both pods");
        self.clock.end();
    }

    fn draw(&self, file_name: &str, width: u32, height: u32, seed: u32) -> Picture {
        Picture::draw(&self.requirements, &self.workshop.folder("pictures-and-zips"), file_name, width, height, seed)
    }

    fn upload_and_compare(&self, here: usize, there: usize, picture: &Picture) -> Media {
        let mut admin = self.admin.at(self.site.pod(here));
        let uploaded = admin.upload(&picture.file_name, picture.content_type, picture.bytes.clone());
        let (media, _) = uploaded.unwrap_or_else(|reason| panic!("{reason}"));
        // All of the other pod first: the comparison must not give it time.
        let mut other = self.site.visitor(there);
        let seen: Vec<Vec<u8>> = media.files.iter().map(|file| file.fetch(&mut other)).collect();
        let mut own = self.site.visitor(here);
        for (file, seen) in media.files.iter().zip(&seen) {
            assert!(*seen == file.fetch(&mut own), "{} differs between the pods", file.path);
        }
        assert!(media.files.len() >= SIZES_MIN, "WordPress made too few sizes: {:?}", media.files);
        assert!(seen.contains(&picture.bytes), "none of the files is the picture as it was sent");
        media
    }

    fn assert_plugin(&self, pod: usize, version: Plugin) {
        let name = self.site.pod_name(pod);
        let proof =
            plugin::ask(&mut self.site.visitor(pod), CLASSES).unwrap_or_else(|reason| panic!("pod {name}: {reason}"));
        assert_eq!(Proof { cached: 0, ..proof }, version.proof(CLASSES), "pod {name} runs other code");
    }

    fn assert_theme(&self, pod: usize, theme: Theme) {
        let name = self.site.pod_name(pod);
        let mut visitor = self.site.visitor(pod);
        let page = visitor.get("/").unwrap_or_else(|broken| panic!("pod {name}: {broken}"));
        theme
            .check_front_page(&page.text())
            .unwrap_or_else(|reason| panic!("pod {name}, status {}: {reason}", page.status));
        let style = visitor.get(&theme.style_path()).unwrap_or_else(|broken| panic!("pod {name}: {broken}"));
        assert_eq!(style.text(), theme.style(), "pod {name}");
    }

    fn assert_nothing_lost(&self, report: &Report) {
        assert!(report.uploaded.len() >= PHASE.uploads, "too few uploads to say anything: {}", report.uploaded.len());
        let mut visitors = [self.site.visitor(A), self.site.visitor(B)];
        for exhibit in &report.gallery {
            for (pod, visitor) in visitors.iter_mut().enumerate() {
                let name = self.site.pod_name(pod);
                let answer = visitor.get(&exhibit.path).unwrap_or_else(|broken| panic!("pod {name}: {broken}"));
                assert_eq!(answer.status, 200, "{} is lost at pod {name}", exhibit.path);
                assert_eq!(crc32fast::hash(&answer.body), exhibit.checksum, "{} at pod {name}", exhibit.path);
            }
        }
        let shown =
            report.gallery.iter().map(|exhibit| exhibit.path.as_str()).collect::<std::collections::BTreeSet<_>>();
        for file in report.uploaded.iter().flat_map(|media| &media.files) {
            assert!(shown.contains(file.path.as_str()), "{} was never fetched", file.path);
        }
    }
}

impl Clock {
    fn lap(&mut self, what: &str) {
        println!("wordpress: {:6.2} s  {what}", self.lap.elapsed().as_secs_f64());
        self.lap = Instant::now();
    }

    fn end(&self) {
        println!("wordpress: {:6.2} s  in all", self.start.elapsed().as_secs_f64());
    }
}

/// The path that a file of one picture would have for another picture of the same dimensions.
fn renamed(file: &MediaFile, from: &str, to: &str, extension: &str) -> MediaFile {
    let path = file.path.replace(from, to).replace("-scaled", "");
    let stem = path.rsplit_once('.').map_or(path.as_str(), |(stem, _)| stem);
    MediaFile { path: format!("{stem}{extension}"), ..file.clone() }
}
