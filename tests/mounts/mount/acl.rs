//! POSIX access control lists, on mounts that have them (`--acl`).

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use rustix::{
    fs::{XattrFlags, getxattr, setxattr},
    io::Errno,
};

use crate::require;
use crate::support::{Cluster, shell_as, succeed};

const ACCESS: &str = "system.posix_acl_access";
const NOBODY: u32 = u32::MAX;

/// Writer's and reader's view of an empty directory, on one mount and on two.
fn everywhere(body: impl Fn(&Path, &Path)) {
    let cluster = Cluster::found();
    let (here, there) = (cluster.mount_with(&["--acl"]), cluster.mount_with(&["--acl"]));
    for (name, reader) in [("one", &here), ("two", &there)] {
        eprintln!("on {name} mount(s)");
        fs::create_dir(here.path.join(name)).expect("mkdir");
        body(&here.path.join(name), &reader.path.join(name));
    }
}

fn setfacl(arguments: &[&str], path: &Path) {
    succeed(Command::new("setfacl").args(arguments).arg(path));
}

/// The entries of the lists, as getfacl of the package `acl` prints them.
fn getfacl(path: &Path) -> Vec<String> {
    let output = succeed(Command::new("getfacl").args(["--omit-header", "--absolute-names", "--numeric"]).arg(path));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.split('\t').next().unwrap_or(line).to_owned())
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn may(uid: u32, how: &str, path: &Path) -> bool {
    let quoted = path.display();
    let script = match how {
        "read" => format!("cat '{quoted}' >/dev/null 2>&1"),
        _ => format!("echo more 2>/dev/null >>'{quoted}'"),
    };
    shell_as(uid, &script) == 0
}

#[test]
fn a_list_gives_what_the_mode_does_not() {
    if !require::programs(&["setfacl", "getfacl"]) {
        return;
    }
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        fs::write(&mine, "secret").expect("create");
        chmod(&mine, 0o600);
        assert!(!may(1234, "read", &theirs));
        setfacl(&["-m", "u:1234:r,g:77:rw"], &mine);
        assert_eq!(
            getfacl(&theirs),
            ["user::rw-", "user:1234:r--", "group::---", "group:77:rw-", "mask::rw-", "other::---"]
        );
        assert_eq!(mode(&theirs), 0o660, "the group bits show the mask");
        assert!(may(1234, "read", &theirs) && !may(1234, "write", &theirs));
        assert!(may(77, "write", &theirs) && !may(1235, "read", &theirs));
        setfacl(&["-x", "u:1234"], &mine);
        assert!(!may(1234, "read", &theirs), "taken away again, with the reader's kernel warm");
        setfacl(&["-b"], &mine);
        assert_eq!(getfacl(&theirs), ["user::rw-", "group::---", "other::---"]);
        assert!(!may(77, "read", &theirs));
    });
}

#[test]
fn chmod_changes_the_mask_and_a_list_the_mode() {
    if !require::programs(&["setfacl", "getfacl"]) {
        return;
    }
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        fs::write(&mine, "").expect("create");
        chmod(&mine, 0o640);
        setfacl(&["-m", "u:1234:rw"], &mine);
        assert!(may(1234, "write", &theirs));
        chmod(&mine, 0o600);
        assert!(!may(1234, "read", &theirs), "the mask is empty");
        assert_eq!(getfacl(&theirs), ["user::rw-", "user:1234:rw-", "group::r--", "mask::---", "other::---"]);
        chmod(&mine, 0o660);
        assert!(may(1234, "write", &theirs));
        setfacl(&["-m", "u::r,o::r"], &mine);
        assert_eq!(mode(&theirs), 0o464);
    });
}

#[test]
fn a_default_list_stands_in_the_place_of_the_umask() {
    if !require::programs(&["setfacl", "getfacl"]) {
        return;
    }
    everywhere(|here, there| {
        let directory = here.join("d");
        fs::create_dir(&directory).expect("mkdir");
        chmod(&directory, 0o777);
        setfacl(&["-d", "-m", "u::rwx,u:1234:rwx,g::r-x,o::---"], &directory);
        let script = format!("umask 077; cd '{}' && touch f && mkdir sub && mkfifo p", there.join("d").display());
        assert_eq!(shell_as(1001, &script), 0);
        let inherited = |name: &str| getfacl(&directory.join(name));
        // touch(1) asks for 0666, mkdir(1) for 0777.
        let file = ["user::rw-", "user:1234:rwx", "group::r-x", "mask::rw-", "other::---"];
        assert_eq!((inherited("f"), mode(&directory.join("f"))), (file.map(str::to_owned).to_vec(), 0o660));
        assert_eq!(inherited("p"), file);
        assert_eq!(mode(&directory.join("sub")), 0o770);
        assert!(inherited("sub").contains(&"default:user:1234:rwx".to_owned()), "handed on: {:?}", inherited("sub"));
        assert!(may(1234, "write", &there.join("d/f")) && !may(1235, "read", &there.join("d/f")));
        setfacl(&["-k"], &directory);
        assert_eq!(shell_as(1001, &format!("umask 027; touch '{}/g'", there.join("d").display())), 0);
        assert_eq!(mode(&directory.join("g")), 0o640, "the umask counts again");
    });
}

/// Version 2, and entries of tag, permissions and id.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

#[test]
fn lists_are_attributes_of_the_system() {
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        fs::write(&mine, "").expect("create");
        let set = |value: &[u8]| setxattr(&mine, ACCESS, value, XattrFlags::empty());
        let long = list(&[(1, 6, NOBODY), (2, 4, 1000), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]);
        set(&long).expect("setxattr");
        let mut value = [0; 100];
        let length = getxattr(&theirs, ACCESS, &mut value[..]).expect("getxattr");
        assert_eq!(value[..length], long);
        // One that the mode says all of is not kept.
        set(&list(&[(1, 7, NOBODY), (4, 5, NOBODY), (32, 1, NOBODY)])).expect("setxattr");
        assert_eq!(getxattr(&theirs, ACCESS, &mut value[..]), Err(Errno::NODATA));
        assert_eq!(mode(&theirs), 0o751);
        assert_eq!(set(&list(&[(1, 7, NOBODY)])), Err(Errno::INVAL), "no list");
        let on_a_file = setxattr(&mine, "system.posix_acl_default", &long, XattrFlags::empty());
        assert_eq!(on_a_file, Err(Errno::ACCESS), "only directories hand lists on");
    });
}

#[test]
fn a_new_list_takes_setgid_from_a_file_of_a_foreign_group() {
    if !require::programs(&["setfacl"]) {
        return;
    }
    everywhere(|here, there| {
        let (mine, theirs) = (here.join("f"), there.join("f"));
        for (group, kept) in [(1001, 0o2000), (5000, 0)] {
            fs::write(&mine, "").expect("create");
            std::os::unix::fs::chown(&mine, Some(1001), Some(group)).expect("chown");
            chmod(&mine, 0o2755);
            assert_eq!(shell_as(1001, &format!("setfacl -m u:77:r '{}'", theirs.display())), 0);
            assert_eq!(mode(&mine), 0o755 | kept);
            fs::remove_file(&mine).expect("unlink");
        }
    });
}

#[test]
fn a_mount_without_lists_refuses_them() {
    let cluster = Cluster::found();
    let mount = cluster.mount();
    fs::write(mount.path.join("f"), "").expect("create");
    let value = list(&[(1, 7, NOBODY), (4, 7, NOBODY), (32, 7, NOBODY)]);
    let refused = setxattr(mount.path.join("f"), ACCESS, &value, XattrFlags::empty());
    assert_eq!(refused, Err(Errno::OPNOTSUPP), "nobody would enforce it");
}
