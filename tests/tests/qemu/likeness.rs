//! What `xl` makes of a configuration: ours beside 4.17, which Debian's control domain runs under Xen.
//!
//! The differences are those of the table in `docs/xenstore-layout.md`, where each is argued: no other, and all of them.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::time::Duration;
use tests::host::TestHost;
use tests::{WORKSPACE, dist};
use xtask::qemu::{Disk, Hardware};
use xtask::reference::dom0;

/// How long Debian's control domain may take on a busy machine.
const REFERENCE: Duration = Duration::from_secs(400);

/// The volumes of the guest: what a disk is called, and whether it is only read.
const VOLUMES: [(&str, bool); 2] = [("data", false), ("more", true)];

/// A guest with all that the store has a place for.
fn config() -> String {
    format!(
        "name = 'alike'\nkernel = '{}'\nextra = 'quiet'\nmemory = 32\nmaxmem = 48\nvcpus = 1\nmaxvcpus = 2\n\
         uuid = '12345678-9abc-def0-1234-56789abcdef0'\non_crash = 'preserve'\n\
         disk = ['/dev/data,raw,xvda,w', '/dev/more,raw,xvdb,r']\nvif = ['mac=00:16:3e:00:00:01']\n",
        dist("guests/hello").display()
    )
}

/// What is asked of both: by name, and the words for `xl` of ours.
const QUESTIONS: [(&str, &str); 3] = [
    ("store", "xenstore ls -f -p"),
    ("configuration", "list -l alike"),
    ("identities", "vm-list"),
];

/// The answers of 4.17, by name.
fn theirs() -> Option<BTreeMap<String, String>> {
    let reference = dom0::dom0(&WORKSPACE)
        .inspect_err(|error| eprintln!("skipped: {error:#}"))
        .ok()?;
    let mut script = String::new();
    for (number, (volume, _)) in VOLUMES.iter().enumerate() {
        script += &format!(
            "mknod /dev/{volume} b 7 {number}\ndd if=/dev/zero of=/{volume} bs=1M count=4 2>/dev/null\n\
             losetup /dev/{volume} /{volume}\n"
        );
    }
    script += &format!("cat >/alike.cfg <<END\n{}END\n", config());
    script += "xl create -q -p /alike.cfg\n";
    for (name, words) in QUESTIONS {
        let line = words.replacen("xenstore ", "xenstore-", 1);
        let line = if line == words {
            format!("xl {line}")
        } else {
            line
        };
        script += &format!("echo '# {name}'\n{line}\n");
    }
    let kernel = dist("guests/hello");
    let said = reference.run(&[kernel], &script, REFERENCE);
    let said = said.expect("the script under Xen ends");
    let parts = said.split("# ").skip(1);
    let parts = parts.filter_map(|part| part.split_once('\n'));
    let answers: BTreeMap<_, _> = parts
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect();
    let created = said.starts_with('#') && answers.len() == QUESTIONS.len();
    assert!(created, "{said}");
    Some(answers)
}

/// Our answers, by name.
fn ours() -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disks = VOLUMES.map(|(volume, read_only)| {
        let file = dir.path().join(volume);
        let image = fs::File::create(&file).expect("an image");
        image.set_len(4 << 20).expect("an image");
        Disk {
            serial: volume.to_owned(),
            file,
            read_only,
        }
    });
    let host = TestHost::boot_on(&Hardware {
        disks: disks.into(),
        ..Hardware::default()
    });
    let file = host.file("alike.cfg", config());
    host.xl(&format!("create -q -p {}", file.display())).ok();
    let answer = |(name, words): (&str, &str)| (name.to_owned(), host.xl(words).ok());
    QUESTIONS.map(answer).into()
}

/// The nodes of a list, each with its value and permissions, without what another host has otherwise for no reason.
fn nodes(list: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in list.lines() {
        let Some((path, rest)) = line.split_once(" = ") else {
            continue;
        };
        let (value, permissions) = rest.rsplit_once("   ").expect("a value with permissions");
        let bare = value.trim_matches('"');
        let value = match path.rsplit('/').next() {
            Some("ring-ref" | "port") if bare.parse::<u64>().is_ok() => "\"number\"",
            Some("start_time") if bare.parse::<f64>().is_ok() => "\"seconds\"",
            _ => value,
        };
        found.insert(path.to_owned(), format!("{value} {permissions}"));
    }
    found
}

/// The leaves of a configuration, each by the names that lead to it.
fn leaves(value: &Value, path: &str, found: &mut BTreeMap<String, String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, it)| (key.clone(), it)).collect(),
        Value::Array(array) => (0..).map(|it: usize| it.to_string()).zip(array).collect(),
        _ => Vec::new(),
    };
    if children.is_empty() {
        found.insert(path.to_owned(), value.to_string());
    }
    for (key, child) in children {
        leaves(child, &format!("{path}/{key}"), found);
    }
}

/// All that is compared of what a host answers.
fn facts(answers: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut facts = nodes(&answers["store"]);
    let list: Value = serde_json::from_str(&answers["configuration"]).expect("JSON");
    leaves(&list, "list", &mut facts);
    for (number, line) in answers["identities"].lines().enumerate() {
        facts.insert(format!("vm-list/{number}"), line.trim_end().to_owned());
    }
    facts
}

/// What differs: the name of it, as 4.17 has it, and as we have it.
type Difference = [String; 3];

fn differences(
    theirs: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> BTreeSet<Difference> {
    let names: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    let shown = |facts: &BTreeMap<String, String>, name| {
        let value = facts.get(name);
        value.map_or_else(|| "none".to_owned(), |value| format!("`{value}`"))
    };
    names
        .into_iter()
        .filter(|&name| theirs.get(name) != ours.get(name))
        .map(|name| [format!("`{name}`"), shown(theirs, name), shown(ours, name)])
        .collect()
}

/// What `a{b,c}d` stands for: `abd` and `acd`, and so on.
fn each(text: &str) -> Vec<String> {
    let Some((before, rest)) = text.split_once('{') else {
        return vec![text.to_owned()];
    };
    let (words, after) = rest.split_once('}').expect("a closing brace");
    let mut all = Vec::new();
    for word in words.split(',') {
        all.extend(each(&format!("{before}{word}{after}")));
    }
    all
}

/// The table of the documentation, each of whose rows has an argument.
fn documented() -> BTreeSet<Difference> {
    let path = WORKSPACE.root().join("docs/xenstore-layout.md");
    let text = fs::read_to_string(path).expect("the documentation");
    let mut lines = text
        .lines()
        .skip_while(|line| *line != "| what | xl 4.17 | Xenolith | why |");
    assert!(lines.next().is_some(), "a table of differences");
    let mut all = BTreeSet::new();
    for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [what, theirs, ours, why] = cells[..] else {
            panic!("four columns: {line}");
        };
        let argued = text.contains(&format!("\n- **{why}**"));
        assert!(argued, "no argument {why:?}: {line}");
        all.extend(
            each(what)
                .into_iter()
                .map(|it| [it, theirs.to_owned(), ours.to_owned()]),
        );
    }
    all
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_new_guest_is_as_xl_would_have_it_but_for_what_is_documented() {
    let Some(theirs) = theirs() else { return };
    let found = differences(&facts(&theirs), &facts(&ours()));
    let documented = documented();
    let mut wrong = String::new();
    for (list, what) in [
        (found.difference(&documented), "not documented"),
        (documented.difference(&found), "documented, but not so"),
    ] {
        for row in list {
            let _ = writeln!(wrong, "{what}: | {} |", row.join(" | "));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
