//! Listings: large ones, changing ones, cached ones.

use std::{collections::BTreeSet, env, fs, path::Path, thread, time::Instant};

use rustix::fs::{RawDir, SeekFrom, seek};

use crate::support::{Cluster, everywhere};

fn list(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("readdir");
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.expect("entry").file_name().into_string().expect("text");
        assert!(names.insert(name.clone()), "{name} is listed twice");
    }
    names
}

/// Makes empty files, several at a time.
fn make(directory: &Path, name: &str, count: usize) {
    const MAKERS: usize = 8;
    thread::scope(|scope| {
        for maker in 0..MAKERS {
            scope.spawn(move || {
                for number in (maker..count).step_by(MAKERS) {
                    fs::File::create(directory.join(format!("{name}{number}"))).expect("create");
                }
            });
        }
    });
}

#[test]
fn five_thousand_entries_are_listed_once_while_others_come_and_go() {
    everywhere(|here, there| {
        make(here, "stays", 5_000);
        assert_eq!(list(there).len(), 5_000);
        // Half a listing, then changes before, at and behind its place, then the rest.
        let mut entries = fs::read_dir(there).expect("readdir");
        let mut names = BTreeSet::new();
        for _ in 0..2_500 {
            names.insert(entries.next().expect("half").expect("entry").file_name());
        }
        make(here, "new", 200);
        make(here, "gone", 100);
        for number in 0..100 {
            fs::remove_file(here.join(format!("gone{number}"))).expect("unlink");
        }
        for entry in entries {
            let name = entry.expect("entry").file_name();
            assert!(names.insert(name.clone()), "{name:?} is listed twice");
        }
        let stays = names.iter().filter(|name| name.to_str().is_some_and(|name| name.starts_with("stays"))).count();
        assert_eq!(stays, 5_000, "what was there all the time is listed");
        assert_eq!(list(there).len(), 5_200);
    });
}

#[test]
fn a_cached_listing_is_dropped_when_names_change() {
    everywhere(|here, there| {
        let mut expected = BTreeSet::new();
        for round in 0..10 {
            assert_eq!(list(there), expected);
            assert_eq!(list(there), expected);
            let name = format!("entry{round}");
            fs::write(here.join(&name), "").expect("create");
            expected.insert(name);
            assert_eq!(list(there), expected, "created");
            if round % 2 == 1 {
                let old = format!("entry{}", round - 1);
                fs::rename(here.join(&old), here.join(format!("moved{round}"))).expect("rename");
                expected.remove(&old);
                expected.insert(format!("moved{round}"));
                assert_eq!(list(there), expected, "renamed");
            }
            if round % 3 == 2 {
                let gone = expected.pop_first().expect("not empty");
                fs::remove_file(here.join(&gone)).expect("unlink");
                assert_eq!(list(there), expected, "removed");
            }
        }
    });
}

#[test]
fn kinds_and_inode_numbers_are_those_of_stat() {
    use std::os::unix::fs::{DirEntryExt, MetadataExt};
    everywhere(|here, there| {
        fs::write(here.join("file"), "").expect("create");
        fs::create_dir(here.join("directory")).expect("mkdir");
        std::os::unix::fs::symlink("file", here.join("link")).expect("symlink");
        for entry in fs::read_dir(there).expect("readdir") {
            let entry = entry.expect("entry");
            let about = fs::symlink_metadata(entry.path()).expect("lstat");
            assert_eq!(entry.ino(), about.ino());
            assert_eq!(entry.file_type().expect("kind"), about.file_type());
        }
    });
}

#[test]
fn removing_while_listing_leaves_nothing() {
    everywhere(|here, there| {
        make(here, "f", 1_000);
        // rm -r lists and removes in turn.
        for entry in fs::read_dir(there).expect("readdir") {
            fs::remove_file(entry.expect("entry").path()).expect("unlink");
        }
        assert!(list(here).is_empty());
        assert!(list(there).is_empty());
    });
}

/// Lists the directory and does this with each entry; says how many entries there were. Gives up behind `most` of them.
fn walk(directory: &Path, most: usize, visit: impl Fn(&str)) -> usize {
    let mut visits = 0;
    for entry in fs::read_dir(directory).expect("readdir") {
        visit(entry.expect("entry").file_name().to_str().expect("text"));
        visits += 1;
        assert!(visits <= most, "{visits} entries were listed, and there are more");
    }
    visits
}

/// `while (readdir) rename(f, "old-".f)`, as PHP programs do: what has got a new place behind that of the walk is listed once
/// more, but not each time, and what has its old name again has its old place.
#[test]
fn a_walk_that_renames_what_it_lists_ends() {
    everywhere(|here, there| {
        for count in [5, 300] {
            let (directory, shown) = (here.join(format!("{count}")), there.join(format!("{count}")));
            fs::create_dir(&directory).expect("mkdir");
            make(&directory, "file", count);
            let rename = |from: &str, to: &str| fs::rename(directory.join(from), directory.join(to)).expect("rename");
            let there_and_back = walk(&shown, 2 * count, |name| {
                rename(name, "elsewhere");
                rename("elsewhere", name);
            });
            assert!((count..=count + 1).contains(&there_and_back), "{there_and_back} entries of {count} files");
            let made_anew = walk(&shown, 2 * count, |name| {
                fs::remove_file(directory.join(name)).expect("unlink");
                fs::write(directory.join(name), "").expect("create");
            });
            assert_eq!(made_anew, count);
            let renamed = walk(&shown, 4 * count, |name| rename(name, &format!("old-{name}")));
            assert!(renamed >= count, "each at least once");
            assert_eq!(list(&shown).len(), count);
            assert!(list(&shown).iter().all(|name| name.starts_with("old-")));
        }
    });
}

/// The names from the directory's offset on, each with the offset behind it.
fn names_from(directory: &fs::File, offset: u64) -> Vec<(String, u64)> {
    seek(directory, SeekFrom::Start(offset)).expect("seekdir");
    let mut buffer = Vec::with_capacity(4096);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.expect("readdir");
        let name = entry.file_name().to_str().expect("text").to_owned();
        names.push((name, entry.next_entry_cookie()));
    }
    names
}

/// What telldir said holds for as long as the directory is open, whatever becomes of the entries around it.
#[test]
fn seekdir_goes_on_where_telldir_was() {
    everywhere(|here, there| {
        make(here, "f", 500);
        let directory = fs::File::open(there).expect("open");
        let all = names_from(&directory, 0);
        assert_eq!(all.len(), 502);
        for place in [0, 1, 2, 77, 250, 499, 501] {
            let rest = names_from(&directory, all[place].1);
            assert_eq!(rest, all[place + 1..], "behind entry {place}");
        }
        let (gone, offset) = all[250].clone();
        for (name, _) in &all[245..250] {
            fs::remove_file(here.join(name)).expect("unlink");
        }
        fs::remove_file(here.join(gone)).expect("unlink");
        assert_eq!(names_from(&directory, offset), all[251..], "the entry itself is gone");
        fs::write(here.join("late"), "").expect("create");
        let rewound = names_from(&directory, 0);
        assert_eq!(rewound.len(), 502 - 6 + 1, "rewinddir shows the directory as it is");
        assert!(rewound.iter().any(|(name, _)| name == "late"));
    });
}

/// `MANYFS_DIRECTORY_ENTRIES` is how many there are (3,000).
#[test]
fn a_large_directory_is_listed_whole() {
    let wanted = env::var("MANYFS_DIRECTORY_ENTRIES").ok();
    let count: usize = wanted.map_or(3_000, |text| text.parse().expect("a number"));
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount(), cluster.mount());
    let begun = Instant::now();
    make(&here.path, "entry", count);
    let made = begun.elapsed();
    let mut took = Vec::new();
    for mount in [&there, &there, &here] {
        let begun = Instant::now();
        assert_eq!(list(&mount.path).len(), count);
        took.push(begun.elapsed());
    }
    eprintln!("{count} entries: made in {made:?}; listed the first time, again, and where they were made in {took:?}");
    let name = format!("entry{}", count / 2);
    fs::remove_file(there.path.join(&name)).expect("unlink");
    assert!(!list(&here.path).contains(&name));
    assert_eq!(list(&here.path).len(), count - 1);
}
