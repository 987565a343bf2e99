//! The store's commands, on a real store.

use crate::bench::Bench;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn filled() -> Bench {
    let bench = Bench::new();
    bench.ok(&[
        "xenstore",
        "write",
        "/a/b",
        "one",
        "/a/c",
        "two\\n\\x01",
        "/a/c/d",
        "",
    ]);
    bench
}

#[test]
fn what_is_written_is_read() {
    let bench = filled();
    let read = |words: &[&str]| bench.ok(&[&["xenstore", "read"], words].concat());
    assert_eq!(read(&["/a/b"]), "one\n");
    assert_eq!(read(&["-s", "/a/c"]), "two\\n\\001\n");
    assert_eq!(
        read(&["-p", "/a/b", "/a/c"]),
        "/a/b: one\n/a/c: two\\n\\001\n"
    );
    assert_eq!(read(&["-R", "/a/b", "/a/c"]), "onetwo\n\u{1}");
    bench.ok(&["xenstore", "write", "-R", "/a/b", "raw\\n"]);
    assert_eq!(read(&["/a/b"]), "raw\\\\n\n");
    bench.ok(&["xenstore", "write", "relative", "-1"]);
    assert_eq!(read(&["/local/domain/0/relative"]), "-1\n");
    let error = bench.fails(&["xenstore", "read", "/a/b", "/no"]);
    assert_eq!(error, "could not read /no: There is no such entry (ENOENT)");
    let error = bench.fails(&["xenstore", "write", "/a/b", "x", "/odd"]);
    assert!(error.contains("no value"), "{error}");
    assert_eq!(read(&["/a/b"]), "raw\\\\n\n");
}

#[test]
fn a_part_of_the_tree_is_listed_as_xenstore_ls_lists_it() {
    let bench = filled();
    let ls = |words: &[&str]| bench.ok(&[&["xenstore", "ls"], words].concat());
    let tree = "b = \"one\"\nc = \"two\\n\\001\"\n d = \"\"\n";
    assert_eq!(ls(&["/a"]), tree);
    let flat = "/a/b = \"one\"\n/a/c = \"two\\n\\001\"\n/a/c/d = \"\"\n";
    assert_eq!(ls(&["-f", "/a"]), flat);
    assert!(ls(&[]).starts_with("a = \"\"\n b = \"one\"\n"));
    assert_eq!(ls(&["-fp", "/a/c"]), "/a/c/d = \"\"   (n0)\n");
    let line = ls(&["-p", "/a/c"]);
    assert_eq!(line, format!("d = \"\" {}.  (n0)\n", ". ".repeat(26)));
    let error = bench.fails(&["xenstore", "ls", "/no"]);
    assert_eq!(error, "could not list /no: There is no such entry (ENOENT)");
    assert_eq!(bench.ok(&["xenstore", "list", "/a", "/a/c"]), "b\nc\nd\n");
    assert_eq!(bench.ok(&["xenstore", "list", "-p", "/a"]), "/a/b\n/a/c\n");
}

#[test]
fn a_list_that_no_message_has_room_for_is_listed_whole() {
    let bench = Bench::new();
    let names: Vec<String> = (0..1000)
        .map(|n| format!("/long/name-of-a-child-{n:04}"))
        .collect();
    for names in names.chunks(250) {
        let words = names.iter().flat_map(|name| [name.as_str(), ""]);
        let words: Vec<&str> = ["xenstore", "write"].into_iter().chain(words).collect();
        bench.ok(&words);
    }
    let listed = bench.ok(&["xenstore", "list", "-p", "/long"]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), names);
}

#[test]
fn nodes_are_removed_with_their_empty_parents_if_that_is_wanted() {
    let bench = filled();
    bench.ok(&["xenstore", "write", "/x/y/z", "1", "/x/full", "1"]);
    bench.ok(&["xenstore", "rm", "-t", "/x/y/z"]);
    assert_eq!(bench.ok(&["xenstore", "list", "/x"]), "full\n");
    bench.ok(&["xenstore", "rm", "/a"]);
    let exists = |path: &str| bench.xl(&["xenstore", "exists", path]).code;
    assert_eq!((exists("/a"), exists("/x"), exists("/x/full")), (1, 0, 0));
    let error = bench.fails(&["xenstore", "rm", "/a/b/c"]);
    assert_eq!(
        error,
        "could not remove /a/b/c: There is no such entry (ENOENT)"
    );
}

#[test]
fn permissions_are_set_up_and_down_the_tree() {
    let bench = filled();
    bench.ok(&["xenstore", "chmod", "-r", "/a/c", "n5", "r6"]);
    let list = bench.ok(&["xenstore", "ls", "-fp", "/a"]);
    assert!(list.contains("/a/b = \"one\"   (n0)\n"), "{list}");
    assert!(list.contains("/a/c/d = \"\"   (n5,r6)\n"), "{list}");
    bench.ok(&["xenstore", "chmod", "-u", "/a/b", "b7"]);
    let list = bench.ok(&["xenstore", "ls", "-fp", "/"]);
    assert!(list.contains("/a = \"\"   (b7)\n"), "{list}");
    for wrong in ["x1", "n", "n70000", "r-1"] {
        assert!(
            bench
                .fails(&["xenstore", "chmod", "/a", wrong])
                .contains("no permission")
        );
    }
}

#[test]
fn a_watch_tells_what_changes_as_often_as_is_wanted() {
    let bench = filled();
    let mut watch = bench
        .command(&["xenstore", "watch", "-n", "3", "/a"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert_eq!(line(), "/a");
    bench.ok(&["xenstore", "write", "/a/b", "new"]);
    assert_eq!(line(), "/a/b");
    bench.ok(&["xenstore", "rm", "/a/c"]);
    assert_eq!(line(), "/a/c");
    assert!(watch.wait().unwrap().success());
}

#[test]
fn each_command_goes_by_the_name_that_xen_has_for_it() {
    let bench = filled();
    let run = bench.by_name("xenstore-read", &["/a/b"]);
    assert_eq!((run.code, run.out.as_str()), (0, "one\n"), "{run:?}");
    assert_eq!(bench.by_name("xenstore-exists", &["/no"]).code, 1);
    assert_eq!(bench.by_name("xenstore-write", &["/w", "1"]).code, 0);
    assert_eq!(bench.ok(&["xenstore", "read", "/w"]), "1\n");
}
