//! Random requests of several clients, at random in and out of transactions, against the model.

use hypercall_abi::errno::Errno;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use xenstore::server::ClientId;
use xenstore::wire::{self, Kind};

use crate::harness::{DOM0, Store, guest};
use crate::model::{Event, Model, Who};

const PATHS: [&str; 26] = [
    "/",
    "/s",
    "/s/a",
    "/s/a/b",
    "/s/a/b/0",
    "/s/a/b-",
    "/s/a-",
    "/s/a-/b",
    "/s/0/a",
    "/t",
    "/t/x",
    "/local/domain",
    "/local/domain/1",
    "/local/domain/1/a",
    "/local/domain/1/a/b",
    "/local/domain/2",
    "/local/domain/2/a/b",
    "/local/domain/3",
    "/local/domain/3/b",
    "a",
    "a/b",
    "a/b/c",
    "a-",
    "b",
    "/s//a",
    "b/",
];

const PERMISSIONS: [&[&str]; 14] = [
    &["n0"],
    &["r0"],
    &["b0"],
    &["w0"],
    &["n1"],
    &["b1"],
    &["r2", "b1"],
    &["n2", "r1", "w3"],
    &["n3", "b2"],
    &["n0", "r1", "r2", "r3"],
    &["b2"],
    &["n1", "n2", "b3"],
    &["x1"],
    &[],
];

/// Draws choices from a number.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        let choice = self.0 % count as u64;
        self.0 /= count as u64;
        choice as usize
    }
}

struct Race {
    store: Store,
    model: Model,
    clients: Vec<(ClientId, Who)>,
    second: ClientId,
}

impl Race {
    fn new() -> Self {
        let mut race = Self {
            store: Store::new(),
            model: Model::new(),
            clients: Vec::new(),
            second: ClientId::Local(0),
        };
        race.second = race.store.connect();
        // Quotas have tests of their own.
        for name in race.store.strings(DOM0, Kind::GetQuota, "")[0].split(' ') {
            race.store
                .ok(DOM0, Kind::SetQuota, &format!("{name}\x000\0"));
        }
        race.clients = Vec::from([(DOM0, (0, 1)), (race.second, (0, 2))]);
        for domain in 1..=3 {
            race.introduce(domain);
            race.clients.push((guest(domain), (domain, 0)));
        }
        let perms = PERMISSIONS[2];
        race.ask(DOM0, (0, 1), 0, Kind::Mkdir, "/s", b"", &[]);
        race.ask(DOM0, (0, 1), 0, Kind::SetPermissions, "/s", b"", perms);
        race
    }

    fn introduce(&mut self, domain: u16) {
        let home = format!("/local/domain/{domain}");
        let owner = format!("n{domain}");
        self.ask(DOM0, (0, 1), 0, Kind::Mkdir, &home, b"", &[]);
        self.compare_events();
        let kind = Kind::SetPermissions;
        self.ask(DOM0, (0, 1), 0, kind, &home, b"", &[&owner]);
        self.compare_events();
        self.store.adopt(domain);
        self.model.introduce(domain);
    }

    /// Sends a request about a node to both, and compares the answers.
    #[allow(clippy::too_many_arguments)]
    fn ask(
        &mut self,
        client: ClientId,
        who: Who,
        tx: u32,
        kind: Kind,
        path: &str,
        value: &[u8],
        perms: &[&str],
    ) {
        let mut payload = [path.as_bytes(), b"\0", value].concat();
        for permission in perms {
            payload.extend([permission.as_bytes(), b"\0"].concat());
        }
        if kind == Kind::DirectoryPart {
            payload.extend(b"0\0");
        }
        let answer = self.store.ask_in(client, tx, kind, &payload);
        let expected = match kind {
            _ if tx != 0 && !self.model.open(who).contains(&tx) => Err(Errno::ENOENT),
            Kind::Read => self.model.read(who, tx, path),
            Kind::GetPermissions => self.model.get_perms(who, tx, path),
            Kind::Directory => self.model.directory(who, tx, path),
            Kind::DirectoryPart => self.model.directory_part(who, tx, path),
            _ => self.model.change(who, tx, kind, path, value, perms),
        };
        let answer = answer.map(|reply| match kind {
            Kind::DirectoryPart => wire::string_and_rest(&reply).unwrap().1.to_vec(),
            _ => reply,
        });
        assert_eq!(answer, expected, "{who:?} {kind:?} {path} in {tx}");
    }

    fn step(&mut self, number: u64) {
        let mut dice = Dice(number);
        let operation = dice.below(64);
        let (client, who) = self.clients[dice.below(self.clients.len())];
        if who.0 != 0 && !self.model.is_introduced(who.0) {
            if operation < 16 {
                self.introduce(who.0);
            }
            return self.compare_events();
        }
        let path = PATHS[dice.below(PATHS.len())];
        let open = self.model.open(who);
        let tx = match dice.below(8) {
            0 => 99,
            1..=4 if !open.is_empty() => open[dice.below(open.len())],
            _ => 0,
        };
        let value = [b'0' + dice.below(10) as u8];
        let perms = PERMISSIONS[dice.below(PERMISSIONS.len())];
        match operation {
            0..12 => self.ask(client, who, tx, Kind::Write, path, &value, &[]),
            12..18 => self.ask(client, who, tx, Kind::Read, path, &[], &[]),
            18..22 => self.ask(client, who, tx, Kind::Mkdir, path, &[], &[]),
            22..27 => self.ask(client, who, tx, Kind::Remove, path, &[], &[]),
            27..31 => self.ask(client, who, tx, Kind::Directory, path, &[], &[]),
            31..33 => self.ask(client, who, tx, Kind::DirectoryPart, path, &[], &[]),
            33..36 => self.ask(client, who, tx, Kind::GetPermissions, path, &[], &[]),
            36..41 => self.ask(client, who, tx, Kind::SetPermissions, path, &[], perms),
            41..47 => {
                let token = ["x", "y"][dice.below(2)];
                let depth = [None, None, Some(0), Some(1)][dice.below(4)];
                let mut payload = format!("{path}\0{token}\0");
                if let Some(depth) = depth {
                    payload += &format!("{depth}\0");
                }
                let answer = self.store.ask(client, Kind::Watch, &payload);
                assert_eq!(answer, self.model.watch(who, path, token, depth));
            }
            47..49 => {
                let token = ["x", "y"][dice.below(2)];
                let payload = format!("{path}\0{token}\0");
                let answer = self.store.ask(client, Kind::Unwatch, &payload);
                assert_eq!(answer, self.model.unwatch(who, path, token));
            }
            49..54 => {
                let id = self.store.start(client);
                self.model.start(who, id);
            }
            54..61 => {
                if let Some(id) = open.first() {
                    let commit = dice.below(8) > 0;
                    let payload = if commit { b"T\0" } else { b"F\0" };
                    let kind = Kind::TransactionEnd;
                    let answer = self.store.ask_in(client, *id, kind, payload);
                    assert_eq!(answer, self.model.end(who, *id, commit), "{who:?} end {id}");
                }
            }
            61 => {
                self.store.ok(client, Kind::ResetWatches, "\0");
                self.model.reset(who);
            }
            62 if dice.below(4) == 0 => {
                let domain = 1 + dice.below(3) as u16;
                if self.model.is_introduced(domain) {
                    self.store.ok(DOM0, Kind::Release, &format!("{domain}\0"));
                    self.model.release(domain);
                }
            }
            _ => {
                let (domain, target) = (1 + dice.below(3) as u16, 1 + dice.below(3) as u16);
                if self.model.is_introduced(domain) && self.model.is_introduced(target) {
                    self.store
                        .ok(DOM0, Kind::SetTarget, &format!("{domain}\0{target}\0"));
                    self.model.set_target(domain, target);
                }
            }
        }
        self.compare_events();
    }

    fn compare_events(&mut self) {
        let mut expected = self.model.events();
        for (client, who) in self.clients.clone() {
            // One that was queued and not taken is not queued again.
            let mut once: Vec<Event> = Vec::new();
            for event in expected.extract_if(.., |event| event.who == who) {
                if !once.contains(&event) {
                    once.push(event);
                }
            }
            if who.0 != 0 && !self.model.is_introduced(who.0) {
                continue;
            }
            let once: Vec<_> = once.into_iter().map(|it| (it.path, it.token)).collect();
            assert_eq!(self.store.events(client), once, "events of {who:?}");
        }
        assert_eq!(expected, []);
    }
}

fn race(cases: u32, operations: usize) {
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_iters: 500,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&vec(any::<u64>(), operations), |numbers| {
            let mut race = Race::new();
            for number in numbers {
                race.step(number);
            }
            prop_assert_eq!(race.store.server.check(), Ok(()));
            Ok(())
        })
        .unwrap();
}

// Half a million operations each, on a core each.

#[test]
fn many_short_races_end_as_the_model_says() {
    race(2500, 200);
}

#[test]
fn a_few_long_races_end_as_the_model_says() {
    race(100, 5000);
}
