//! What another user than root may do.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    thread,
};

use nix::{
    fcntl::{FallocateFlags, fallocate},
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use rustix::fs::copy_file_range;

use crate::support::{everywhere, shell_as};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").mode() & 0o7777
}

#[test]
fn mode_bits_are_enforced_and_their_change_is_too() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        fs::write(&mine, "secret").expect("create");
        let read = format!("cat '{}' >/dev/null 2>&1", theirs.display());
        let write = format!("echo more 2>/dev/null >>'{}'", theirs.display());
        for (mode, may_read, may_write) in
            [(0o600, false, false), (0o644, true, false), (0o622, false, true), (0o666, true, true)]
        {
            chmod(&mine, mode);
            assert_eq!(shell_as(1234, &read) == 0, may_read, "{mode:o}");
            assert_eq!(shell_as(1234, &write) == 0, may_write, "{mode:o}");
        }
        chmod(&mine, 0o600);
        chown(&mine, Some(1234), None).expect("chown");
        assert_eq!(shell_as(1234, &read), 0, "now the owner");
    });
}

#[test]
fn a_directory_without_write_permission_takes_no_names() {
    everywhere(|here, there| {
        let directory = there.join("d");
        fs::create_dir(here.join("d")).expect("mkdir");
        fs::write(here.join("d/f"), "").expect("create");
        chmod(&here.join("d"), 0o755);
        for script in ["touch new", "rm f", "mkdir d", "mv f g", "ln f g", "ln -s x y"] {
            let script = format!("cd '{}' && {script} 2>/dev/null", directory.display());
            assert_ne!(shell_as(1234, &script), 0, "{script}");
        }
        chmod(&here.join("d"), 0o711);
        assert_ne!(shell_as(1234, &format!("ls '{}' 2>/dev/null", directory.display())), 0);
        assert_eq!(shell_as(1234, &format!("test -e '{}/f'", directory.display())), 0);
        chmod(&here.join("d"), 0o700);
        assert_ne!(shell_as(1234, &format!("test -e '{}/f'", directory.display())), 0);
    });
}

#[test]
fn a_sticky_directory_protects_the_names_of_others() {
    everywhere(|here, there| {
        fs::create_dir(here.join("tmp")).expect("mkdir");
        chmod(&here.join("tmp"), 0o1777);
        let directory = there.join("tmp").display().to_string();
        assert_eq!(shell_as(1001, &format!("touch '{directory}/f'")), 0);
        assert_ne!(shell_as(1002, &format!("rm -f '{directory}/f' 2>/dev/null")), 0);
        assert_ne!(shell_as(1002, &format!("mv '{directory}/f' '{directory}/g' 2>/dev/null")), 0);
        assert_eq!(shell_as(1001, &format!("rm '{directory}/f'")), 0);
    });
}

#[test]
fn what_is_made_has_the_callers_owner_umask_and_the_directorys_group() {
    everywhere(|here, there| {
        fs::create_dir(here.join("shared")).expect("mkdir");
        chown(here.join("shared"), Some(0), Some(5000)).expect("chown");
        chmod(&here.join("shared"), 0o2777);
        let directory = there.join("shared").display().to_string();
        assert_eq!(
            shell_as(1001, &format!("umask 027; cd '{directory}' && touch f && mkdir d && mkfifo p && ln -s f l")),
            0
        );
        for (name, expected) in [("f", 0o640), ("d", 0o2750), ("p", 0o640)] {
            let about = fs::symlink_metadata(here.join("shared").join(name)).expect("stat");
            assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (1001, 5000, expected), "{name}");
        }
    });
}

#[test]
fn setuid_goes_with_a_write_or_a_change_of_owner() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        fs::write(&mine, "x").expect("create");
        chmod(&mine, 0o6777);
        assert_eq!(mode(&theirs), 0o6777);
        assert_eq!(shell_as(1234, &format!("echo y >>'{}'", theirs.display())), 0);
        assert_eq!(mode(&mine), 0o777, "written by another");
        assert_eq!(mode(&theirs), 0o777);
        chmod(&mine, 0o6777);
        fs::write(&mine, "root may").expect("write");
        assert_eq!(mode(&theirs), 0o6777, "written by root");
        assert_eq!(shell_as(1234, &format!(": >'{}'", theirs.display())), 0);
        assert_eq!(mode(&mine), 0o777, "cut by another");
        chmod(&mine, 0o6777);
        chown(&mine, Some(77), Some(77)).expect("chown");
        assert_eq!(mode(&theirs), 0o777, "given away");
    });
}

/// Runs `body` in a thread with the rights of this user, who is of this group and of root's.
fn as_user(uid: u32, gid: u32, body: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            setfsgid(Gid::from_raw(gid));
            setfsuid(Uid::from_raw(uid));
            body();
        });
    });
}

/// As `setattr_should_drop_suidgid` in fs/attr.c has it: setuid goes; setgid as well, but where the group may not execute it
/// stays for who is of the group.
#[test]
fn setuid_and_setgid_end_with_every_change_of_content_by_others_than_root() {
    const GROUP: u32 = 5000;
    type Change = fn(&Path);
    let open = |path: &Path| File::options().write(true).open(path).expect("open");
    let changes: [(&str, Change); 8] = [
        ("write", |path| fs::write(path, "other").expect("write")),
        ("append", |path| {
            std::io::Write::write_all(&mut File::options().append(true).open(path).expect("open"), b"x")
                .expect("append");
        }),
        ("O_TRUNC", |path| drop(File::create(path).expect("open"))),
        ("truncate", |path| File::options().write(true).open(path).expect("open").set_len(2).expect("ftruncate")),
        ("the same size", |path| {
            File::options().write(true).open(path).expect("open").set_len(4).expect("ftruncate");
        }),
        ("fallocate", |path| {
            let file = File::options().write(true).open(path).expect("open");
            fallocate(&file, FallocateFlags::empty(), 0, 100).expect("fallocate");
        }),
        ("punch", |path| {
            let file = File::options().write(true).open(path).expect("open");
            let punch = FallocateFlags::FALLOC_FL_KEEP_SIZE | FallocateFlags::FALLOC_FL_PUNCH_HOLE;
            fallocate(&file, punch, 0, 4).expect("punch");
        }),
        ("copy", |path| {
            let source = File::open(path.with_file_name("source")).expect("open");
            let file = File::options().write(true).open(path).expect("open");
            assert_eq!(copy_file_range(&source, Some(&mut 0), &file, Some(&mut 0), 3), Ok(3));
        }),
    ];
    everywhere(|here, there| {
        fs::write(here.join("source"), "source").expect("create");
        chmod(&here.join("source"), 0o644);
        let (mine, theirs) = (here.join("f"), there.join("f"));
        fs::write(&mine, "text").expect("create");
        chown(&mine, Some(77), Some(GROUP)).expect("chown");
        for (what, change) in changes {
            for (before, member, stranger) in [
                (0o2666, 0o2666, 0o666),
                (0o4666, 0o666, 0o666),
                (0o6666, 0o2666, 0o666),
                (0o6676, 0o676, 0o676),
                (0o2777, 0o777, 0o777),
                (0o666, 0o666, 0o666),
            ] {
                for (uid, gid, after) in [(0, 0, before), (1234, GROUP, member), (1234, 1234, stranger)] {
                    fs::write(&mine, "text").expect("write");
                    chmod(&mine, before);
                    as_user(uid, gid, || change(&theirs));
                    assert_eq!(
                        (format!("{:o}", mode(&mine)), format!("{:o}", mode(&theirs))),
                        (format!("{after:o}"), format!("{after:o}")),
                        "{what} of {before:o} by {uid}:{gid}"
                    );
                }
            }
        }
        // What is open for writing stays so, and is judged at each write.
        let file = open(&theirs);
        chmod(&mine, 0o2666);
        as_user(1234, 1234, || std::io::Write::write_all(&mut &file, b"x").expect("write"));
        assert_eq!(mode(&mine), 0o666);
    });
}

/// `chown -R` of a shared tree leaves it shared: a directory's bits are not those of a program.
#[test]
fn a_change_of_owner_leaves_a_directorys_bits() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("d"), there.join("d"));
        fs::create_dir(&mine).expect("mkdir");
        for bits in [0o2777, 0o6755, 0o7777, 0o4700] {
            chmod(&mine, bits);
            chown(&theirs, Some(1001), Some(5000)).expect("chown");
            assert_eq!((mode(&mine), mode(&theirs)), (bits, bits), "{bits:o} by root");
            as_user(1001, 5000, || chown(&theirs, Some(1001), Some(5000)).expect("chown"));
            assert_eq!((mode(&mine), mode(&theirs)), (bits, bits), "{bits:o} by its owner");
        }
        let file = here.join("f");
        fs::write(&file, "").expect("create");
        for (before, after) in [(0o2666, 0o2666), (0o6666, 0o2666), (0o6755, 0o755)] {
            chmod(&file, before);
            chown(there.join("f"), Some(1001), Some(5000)).expect("chown");
            assert_eq!(mode(&file), after, "a file of {before:o}");
        }
    });
}

#[test]
fn only_the_owner_changes_mode_and_times() {
    everywhere(|here, there| {
        fs::write(here.join("f"), "").expect("create");
        chmod(&here.join("f"), 0o666);
        let path = there.join("f").display().to_string();
        for script in ["chmod 600", "chown 1234", "touch -d 2001-01-01"] {
            assert_ne!(shell_as(1234, &format!("{script} '{path}' 2>/dev/null")), 0, "{script}");
        }
        assert_eq!(shell_as(1234, &format!("touch '{path}'")), 0, "the present time is for who may write");
    });
}
