//! Each request about nodes: what it answers, and each of its errors.

use hypercall_abi::errno::Errno::{self, *};
use hypercall_abi::io::xs_wire::{XENSTORE_PAYLOAD_MAX, XS_INVALID};
use xenstore::server::ClientId;
use xenstore::wire::{self, Kind};

use crate::harness::{DOM0, Store, guest};

const FIVE: ClientId = ClientId::Domain(hypercall_abi::types::Domid(5));

/// Domains 5 and 6, and nodes that all may read, write, both, or neither.
fn store() -> Store {
    let mut store = Store::with_guests(&[5, 6]);
    for (path, permission) in [("/n", "n0"), ("/r", "r0"), ("/w", "w0"), ("/b", "b0")] {
        store.ok(DOM0, Kind::Write, &format!("{path}\0{permission}"));
        store.ok(
            DOM0,
            Kind::SetPermissions,
            &format!("{path}\0{permission}\0"),
        );
    }
    store
}

#[track_caller]
fn expect(cases: &[(ClientId, Kind, &str, Result<&str, Errno>)]) {
    let mut store = store();
    for (who, kind, payload, expected) in cases {
        let answer = store.ask(*who, *kind, payload);
        let expected = expected.map(|reply| reply.as_bytes().to_vec());
        assert_eq!(answer, expected, "{who:?} {kind:?} {payload:?}");
    }
    store.check();
}

#[test]
fn read() {
    use Kind::Read;
    expect(&[
        (DOM0, Read, "/n\0", Ok("n0")),
        (FIVE, Read, "/r\0", Ok("r0")),
        (FIVE, Read, "/local/domain/5\0", Ok("")),
        (FIVE, Read, "/n\0", Err(EACCES)),
        (FIVE, Read, "/w\0", Err(EACCES)),
        (FIVE, Read, "absent\0", Err(ENOENT)),
        (FIVE, Read, "/r/absent/below\0", Err(ENOENT)),
        (FIVE, Read, "/n/absent\0", Err(EACCES)),
        (FIVE, Read, "/absent\0", Err(EACCES)),
        (DOM0, Read, "/absent\0", Err(ENOENT)),
        (DOM0, Read, "", Err(EINVAL)),
        (DOM0, Read, "\0", Err(EINVAL)),
        (DOM0, Read, "/n", Err(EINVAL)),
        (DOM0, Read, "/n\0\0", Err(EINVAL)),
        (DOM0, Read, "/n/\0", Err(EINVAL)),
        (DOM0, Read, "//n\0", Err(EINVAL)),
        (DOM0, Read, "/a b\0", Err(EINVAL)),
        (DOM0, Read, "@releaseDomain\0", Err(EINVAL)),
    ]);
}

#[test]
fn write() {
    use Kind::{GetPermissions, Read, Write};
    expect(&[
        (FIVE, Write, "a/b/c\0with\0nuls\0", Ok("OK\0")),
        (DOM0, Read, "/local/domain/5/a/b/c\0", Ok("with\0nuls\0")),
        (DOM0, Read, "/local/domain/5/a/b\0", Ok("")),
        (FIVE, Write, "a/b/c\0", Ok("OK\0")),
        (FIVE, Read, "a/b/c\0", Ok("")),
        (FIVE, Write, "/w\0new", Ok("OK\0")),
        (DOM0, Read, "/w\0", Ok("new")),
        (DOM0, GetPermissions, "/w\0", Ok("w0\0")),
        // Who has no privilege owns what it creates.
        (FIVE, Write, "/b/mine\0", Ok("OK\0")),
        (FIVE, GetPermissions, "/b/mine\0", Ok("b5\0")),
        (DOM0, Write, "/local/domain/5/given\0", Ok("OK\0")),
        (FIVE, GetPermissions, "given\0", Ok("n5\0")),
        (FIVE, Write, "/r\0", Err(EACCES)),
        (FIVE, Write, "/r/new\0", Err(EACCES)),
        (FIVE, Write, "/local/domain/6/new\0", Err(EACCES)),
        (FIVE, Write, "/a", Err(EINVAL)),
        (FIVE, Write, "", Err(EINVAL)),
        (FIVE, Write, "\0x", Err(EINVAL)),
        (FIVE, Write, "a.b\0x", Err(EINVAL)),
    ]);
}

#[test]
fn mkdir() {
    use Kind::{Mkdir, Read};
    expect(&[
        (FIVE, Mkdir, "a/b\0", Ok("OK\0")),
        (FIVE, Read, "a/b\0", Ok("")),
        // What is there stays as it is.
        (FIVE, Mkdir, "/w\0", Ok("OK\0")),
        (DOM0, Read, "/w\0", Ok("w0")),
        (FIVE, Mkdir, "/r\0", Err(EACCES)),
        (FIVE, Mkdir, "/new\0", Err(EACCES)),
        (FIVE, Mkdir, "a/\0", Err(EINVAL)),
        (FIVE, Mkdir, "a", Err(EINVAL)),
        (FIVE, Mkdir, "a\0b\0", Err(EINVAL)),
    ]);
}

#[test]
fn rm() {
    use Kind::{Mkdir, Read, Remove};
    expect(&[
        (FIVE, Mkdir, "a/b/c\0", Ok("OK\0")),
        (FIVE, Mkdir, "a-b\0", Ok("OK\0")),
        (FIVE, Remove, "a\0", Ok("OK\0")),
        (FIVE, Read, "a/b/c\0", Err(ENOENT)),
        (FIVE, Read, "a\0", Err(ENOENT)),
        (FIVE, Read, "a-b\0", Ok("")),
        // Already gone, but its parent is there.
        (FIVE, Remove, "a\0", Ok("OK\0")),
        (FIVE, Remove, "a/b\0", Err(ENOENT)),
        (FIVE, Remove, "/w\0", Ok("OK\0")),
        (FIVE, Remove, "/r\0", Err(EACCES)),
        (FIVE, Remove, "/\0", Err(EACCES)),
        (DOM0, Remove, "/\0", Err(EINVAL)),
        (DOM0, Remove, "a\0\0", Err(EINVAL)),
        (DOM0, Remove, "", Err(EINVAL)),
    ]);
}

#[test]
fn directory() {
    use Kind::{Directory, Mkdir, Write};
    expect(&[
        (FIVE, Directory, "/local/domain/5\0", Ok("")),
        (FIVE, Mkdir, "b/x\0", Ok("OK\0")),
        (FIVE, Write, "a\0", Ok("OK\0")),
        (FIVE, Mkdir, "b-\0", Ok("OK\0")),
        (FIVE, Directory, "/local/domain/5\0", Ok("a\0b\0b-\0")),
        (FIVE, Directory, "b\0", Ok("x\0")),
        (FIVE, Directory, "/\0", Err(EACCES)),
        (DOM0, Directory, "/\0", Ok("b\0local\0n\0r\0w\0")),
        (FIVE, Directory, "absent\0", Err(ENOENT)),
        (FIVE, Directory, "b", Err(EINVAL)),
        (FIVE, Directory, "b\0c\0", Err(EINVAL)),
    ]);
}

#[test]
fn directory_part() {
    use Kind::DirectoryPart;
    expect(&[
        (FIVE, DirectoryPart, "/n\x000\0", Err(EACCES)),
        (FIVE, DirectoryPart, "absent\x000\0", Err(ENOENT)),
        (FIVE, DirectoryPart, "/r\0", Err(EINVAL)),
        (FIVE, DirectoryPart, "/r\x000\x000\0", Err(EINVAL)),
        (FIVE, DirectoryPart, "/r\0x\0", Err(EINVAL)),
        (FIVE, DirectoryPart, "/r/\x000\0", Err(EINVAL)),
    ]);
}

#[test]
fn a_list_that_is_too_long_comes_in_parts() {
    let mut store = store();
    let name = |number| format!("{number:03}-{}", "x".repeat(60));
    for number in 0..150 {
        store.ok(DOM0, Kind::Mkdir, &format!("/long/{}\0", name(number)));
    }
    let whole = store.ask(DOM0, Kind::Directory, "/long\0");
    assert_eq!(whole, Err(E2BIG));

    let (mut list, mut states) = (Vec::new(), Vec::new());
    loop {
        let payload = format!("/long\0{}\0", list.len());
        let part = store.ok(DOM0, Kind::DirectoryPart, &payload);
        assert!(part.len() <= XENSTORE_PAYLOAD_MAX);
        let (state, names) = wire::string_and_rest(&part).unwrap();
        states.push(state.to_vec());
        // An empty string ends it.
        if names == b"\0" || names.ends_with(b"\0\0") {
            list.extend(&names[..names.len() - 1]);
            break;
        }
        list.extend(names);
    }
    assert!(states.len() > 2);
    assert_eq!(wire::strings(&list).len(), 150);
    assert_eq!(wire::strings(&list)[149], name(149).as_bytes());
    states.dedup();
    assert_eq!(states.len(), 1);

    let state = |store: &mut Store| {
        let part = store.ok(DOM0, Kind::DirectoryPart, "/long\x0099999\0");
        let (state, names) = wire::string_and_rest(&part).unwrap();
        assert_eq!(names, b"\0");
        state.to_vec()
    };
    store.ok(DOM0, Kind::Mkdir, "/other\0");
    assert_eq!(state(&mut store), states[0]);
    store.ok(DOM0, Kind::Mkdir, "/long/new\0");
    let after = state(&mut store);
    assert_ne!(after, states[0]);
    store.ok(DOM0, Kind::Write, "/long\0value");
    assert_ne!(state(&mut store), after);
}

#[test]
fn a_list_just_too_long_for_one_part_comes_in_two() {
    let mut store = store();
    for number in 10..25 {
        let name = format!("{number}{}", "x".repeat(253));
        store.ok(DOM0, Kind::Mkdir, &format!("/edge/{name}\0"));
    }
    let mut complete = 0;
    for length in 230..260 {
        let last = format!("/edge/z{}\0", "x".repeat(length));
        store.ok(DOM0, Kind::Mkdir, &last);
        let part = store.ok(DOM0, Kind::DirectoryPart, "/edge\x000\0");
        complete += usize::from(part.ends_with(b"\0\0"));
        store.ok(DOM0, Kind::Remove, &last);
    }
    assert!((1..29).contains(&complete), "{complete}");
}

#[test]
fn get_perms() {
    use Kind::{GetPermissions, SetPermissions};
    expect(&[
        (FIVE, GetPermissions, "/r\0", Ok("r0\0")),
        (DOM0, SetPermissions, "/r\0r0\0b6\0n5\0", Ok("OK\0")),
        (FIVE, GetPermissions, "/r\0", Err(EACCES)),
        (guest(6), GetPermissions, "/r\0", Ok("r0\0b6\0n5\0")),
        (FIVE, GetPermissions, "absent\0", Err(ENOENT)),
        (FIVE, GetPermissions, "", Err(EINVAL)),
        (DOM0, GetPermissions, "@introduceDomain\0", Err(EINVAL)),
    ]);
}

#[test]
fn set_perms() {
    use Kind::{GetPermissions, Read, SetPermissions, Write};
    expect(&[
        (FIVE, Write, "a\0x", Ok("OK\0")),
        (guest(6), Read, "/local/domain/5/a\0", Err(EACCES)),
        (FIVE, SetPermissions, "a\0n5\0r6\0", Ok("OK\0")),
        (guest(6), Read, "/local/domain/5/a\0", Ok("x")),
        (guest(6), Write, "/local/domain/5/a\0y", Err(EACCES)),
        (
            guest(6),
            SetPermissions,
            "/local/domain/5/a\0n6\0",
            Err(EACCES),
        ),
        // Only dom0 gives nodes away.
        (FIVE, SetPermissions, "a\0n6\0", Err(EPERM)),
        (DOM0, SetPermissions, "/local/domain/5/a\0n6\0", Ok("OK\0")),
        (FIVE, Read, "a\0", Err(EACCES)),
        (guest(6), GetPermissions, "/local/domain/5/a\0", Ok("n6\0")),
        // Writing is not owning.
        (FIVE, SetPermissions, "/b\0b0\0", Err(EACCES)),
        (DOM0, SetPermissions, "/absent\0n0\0", Err(ENOENT)),
        (FIVE, SetPermissions, "/absent\0n5\0", Err(EACCES)),
        (FIVE, SetPermissions, "absent\0n5\0", Err(ENOENT)),
        (DOM0, SetPermissions, "/b\0", Err(EINVAL)),
        (DOM0, SetPermissions, "", Err(EINVAL)),
        (DOM0, SetPermissions, "/b\0x0\0", Err(EINVAL)),
        (DOM0, SetPermissions, "/b\0r0\0r\0", Err(EINVAL)),
        (DOM0, SetPermissions, "/b/\0r0\0", Err(EINVAL)),
        (DOM0, SetPermissions, "/b\0r40000\0", Err(EINVAL)),
        (DOM0, SetPermissions, "@unknown\0n0\0", Err(EINVAL)),
        (FIVE, SetPermissions, "@releaseDomain\0r5\0", Err(EACCES)),
    ]);
}

#[test]
fn what_is_no_request_is_not_implemented() {
    let mut store = store();
    for kind in [Kind::WatchEvent, Kind::Error] {
        assert_eq!(store.ask(DOM0, kind, "/\0"), Err(ENOSYS));
    }
    for number in [20, 27, XS_INVALID, u32::MAX] {
        let mut bytes = wire::encode(Kind::Read, 77, 0, b"/\0");
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        store.server.receive(DOM0, &bytes).unwrap();
        store.server.serve(store.now, &mut store.world);
        let reply = store.server.output(DOM0);
        assert_eq!(reply, wire::encode(Kind::Error, 77, 0, b"ENOSYS\0"));
        let count = reply.len();
        store.server.sent(DOM0, count);
    }
}

#[test]
fn numbers_of_request_and_transaction_come_back() {
    let mut store = store();
    let transaction = store.start(DOM0);
    for (path, kind, payload) in [
        ("/r\0", Kind::Read, &b"r0"[..]),
        ("/x\0", Kind::Error, b"ENOENT\0"),
    ] {
        let request = wire::encode(Kind::Read, 0xdead_beef, transaction, path.as_bytes());
        store.server.receive(DOM0, &request).unwrap();
        store.server.serve(store.now, &mut store.world);
        let reply = store.server.output(DOM0);
        assert_eq!(reply, wire::encode(kind, 0xdead_beef, transaction, payload));
        let count = reply.len();
        store.server.sent(DOM0, count);
    }
}

#[test]
fn only_the_privileged_control_the_store() {
    let mut store = store();
    for kind in [
        Kind::Control,
        Kind::Introduce,
        Kind::Release,
        Kind::IsDomainIntroduced,
        Kind::Resume,
        Kind::SetTarget,
        Kind::GetFeature,
        Kind::SetFeature,
        Kind::GetQuota,
        Kind::SetQuota,
    ] {
        assert_eq!(store.ask(FIVE, kind, "6\0"), Err(EACCES), "{kind:?}");
    }
}

#[test]
fn requests_in_no_transaction_of_the_client_find_none() {
    let mut store = store();
    let theirs = store.start(DOM0);
    for kind in [
        Kind::Read,
        Kind::Write,
        Kind::TransactionStart,
        Kind::TransactionEnd,
    ] {
        let answer = store.ask_in(FIVE, theirs, kind, b"T\0");
        assert_eq!(answer, Err(ENOENT), "{kind:?}");
    }
    // For watches the number does not count.
    let answer = store.ask_in(FIVE, 99, Kind::Watch, b"a\0token\0");
    assert_eq!(answer, Ok(b"OK\0".to_vec()));
}
