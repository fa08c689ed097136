//! What another user than root may do.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use super::support::{everywhere, shell_as};

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
