//! O_APPEND from several processes and mounts at once: nothing is lost, nothing is torn.

use std::{
    fs::{self, File},
    io::Write,
    thread,
};

use crate::support::everywhere;

#[test]
fn lines_of_all_writers_are_there_once_and_whole() {
    const LINES: usize = 150;
    everywhere(|here, there| {
        File::create(here.join("log")).expect("create");
        thread::scope(|scope| {
            for (writer, directory) in [here, there, here, there].into_iter().enumerate() {
                scope.spawn(move || {
                    let mut file = File::options().append(true).open(directory.join("log")).expect("open");
                    for line in 0..LINES {
                        // Over page borders at every length.
                        let text = format!("{writer}:{line}:{}\n", "x".repeat((line * 37) % 500));
                        assert_eq!(file.write(text.as_bytes()).expect("write"), text.len(), "in one piece");
                    }
                });
            }
        });
        let text = fs::read_to_string(there.join("log")).expect("read");
        assert_eq!(text, fs::read_to_string(here.join("log")).expect("read"));
        let mut next = [0; 4];
        for line in text.lines() {
            let mut parts = line.split(':');
            let writer: usize = parts.next().and_then(|part| part.parse().ok()).expect("a writer");
            let number: usize = parts.next().and_then(|part| part.parse().ok()).expect("a number");
            assert_eq!(number, next[writer], "in each writer's order");
            assert_eq!(parts.next().map(str::len), Some((number * 37) % 500), "whole: {line}");
            next[writer] += 1;
        }
        assert_eq!(next, [LINES; 4]);
    });
}

#[test]
fn an_append_goes_to_the_end_that_others_made() {
    everywhere(|here, there| {
        let mut mine = File::options().append(true).create(true).open(here.join("f")).expect("open");
        let mut theirs = File::options().append(true).open(there.join("f")).expect("open");
        let mut expected = String::new();
        for round in 0..10 {
            for (file, who) in [(&mut mine, "mine"), (&mut theirs, "theirs")] {
                let text = format!("{who} {round}\n");
                file.write_all(text.as_bytes()).expect("write");
                file.sync_all().expect("fsync");
                expected += &text;
                assert_eq!(fs::read_to_string(there.join("f")).expect("read"), expected);
                assert_eq!(fs::read_to_string(here.join("f")).expect("read"), expected);
            }
        }
    });
}
