//! Bytes that a guest, or a store, sends: in whatever pieces they come, the same messages are found, the
//! server stays consistent, and the client keeps nothing that nobody waits for.
#![no_main]

use std::time::Duration;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use libfuzzer_sys::fuzz_target;
use xenstore::client::{Client, TransactionId};
use xenstore::server::{ClientId, Links, PRECEDENCE, Server};
use xenstore::wire::{self, Assembler, Kind, Message};

struct Nowhere;

impl Links for Nowhere {
    fn introduce(&mut self, _: Domid, _: u64, _: Port, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn release(&mut self, _: Domid) {}

    fn print(&mut self, _: &str) {}
}

/// The messages in `bytes`, which come in pieces of so many, up to one that is too long.
fn messages(bytes: &[u8], piece: usize) -> Vec<Message> {
    let mut assembler = Assembler::default();
    let mut messages = Vec::new();
    for mut piece in bytes.chunks(piece) {
        while !piece.is_empty() {
            match assembler.push(piece) {
                Ok(taken) => piece = &piece[taken..],
                Err(_) => return messages,
            }
            messages.extend(assembler.take());
        }
    }
    messages
}

/// Has a client send them, and the server serve them; all that it sends back.
fn serve(server: &mut Server, who: ClientId, mut bytes: &[u8]) -> Vec<u8> {
    let (mut now, mut output) = (Duration::ZERO, Vec::new());
    while !bytes.is_empty() {
        match server.receive(who, bytes) {
            Ok(taken) => bytes = &bytes[taken..],
            Err(_) => break,
        }
        while server.serve(now, &mut Nowhere).is_some() {}
        now += PRECEDENCE;
        loop {
            let sent = server.output(who).to_vec();
            if sent.is_empty() {
                break;
            }
            server.sent(who, sent.len());
            output.extend(sent);
        }
    }
    output
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (piece, privileged, bytes) = input;
    let found = messages(bytes, usize::from(piece) + 1);
    assert_eq!(found, messages(bytes, usize::MAX));
    for message in &found {
        if let Some(kind) = Kind::from_number(message.kind) {
            let (request, transaction) = (message.request, message.transaction);
            let again = wire::encode(kind, request, transaction, &message.payload);
            assert_eq!(messages(&again, 1), [message.clone()]);
        }
    }

    let mut server = Server::new();
    let dom0 = server.connect();
    let request = |kind, payload: &[u8]| wire::encode(kind, 1, 0, payload);
    let five = ClientId::Domain(Domid(5));
    for bytes in [
        request(Kind::Mkdir, b"/local/domain/5\0"),
        request(Kind::SetPermissions, b"/local/domain/5\0n5\0"),
        request(Kind::Introduce, b"5\x001\x001\0"),
    ] {
        serve(&mut server, dom0, &bytes);
    }
    let output = serve(&mut server, if privileged { dom0 } else { five }, bytes);
    assert_eq!(server.check(), Ok(()));
    // What the server sends, a client understands.
    assert_eq!(messages(&output, 7).concat_len(), output.len());

    let mut client = Client::new();
    let requests = [
        client.read(TransactionId::NONE, "a"),
        client.directory(TransactionId::NONE, "b"),
        client.watch("c", b"d"),
    ];
    _ = client.receive(bytes);
    for request in requests.into_iter().flatten() {
        _ = client.reply(request);
        client.forget(request);
    }
    assert_eq!(client.answered().count(), 0);
});

/// Bytes that messages take.
trait Length {
    fn concat_len(&self) -> usize;
}

impl Length for Vec<Message> {
    fn concat_len(&self) -> usize {
        self.iter()
            .map(|message| wire::HEADER + message.payload.len())
            .sum()
    }
}
