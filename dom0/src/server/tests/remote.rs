//! xl's connections to the store.

use super::store::{Guest, NONE};
use super::*;
use hypercall_abi::errno::Errno;
use xenstore::client::{Client, RequestId};

/// xl's connection to the store.
struct Remote {
    channel: u32,
    client: Client,
}

impl Remote {
    fn attach(host: &mut Host) -> Self {
        let channel = host.open();
        host.send(channel, Request::AttachStore);
        assert_eq!(host.replies(channel), [Reply::Done]);
        let client = Client::new();
        Self { channel, client }
    }

    fn turn(&mut self, host: &mut Host) {
        while !self.client.output().is_empty() {
            let bytes = self.client.output().to_vec();
            self.client.sent(bytes.len());
            // Messages do not end where requests do.
            for piece in bytes.chunks(7) {
                host.send(self.channel, Request::StoreInput(piece.to_vec()));
            }
        }
        for reply in host.replies(self.channel) {
            let Reply::StoreOutput(bytes) = reply else {
                panic!("{reply:?}");
            };
            self.client.receive(&bytes).unwrap();
        }
    }

    fn finish(&mut self, host: &mut Host, request: RequestId) -> Result<Vec<u8>, Errno> {
        self.turn(host);
        self.client.reply(request).expect("a reply")
    }
}

#[test]
fn xl_speaks_with_the_store_as_a_part_of_dom0() {
    let mut host = Host::new();
    let config = host.config("web");
    let domid = host.create(config);
    let mut one = Remote::attach(&mut host);
    let mut two = Remote::attach(&mut host);
    let home = format!("/local/domain/{domid}");

    let watch = one.client.watch(&format!("{home}/data"), b"t").unwrap();
    one.finish(&mut host, watch).unwrap();
    one.client.event().expect("a watch fires when it is set");
    let path = format!("{home}/data/x");
    let write = two.client.write(NONE, &path, b"from xl").unwrap();
    two.finish(&mut host, write).unwrap();
    one.turn(&mut host);
    assert_eq!(one.client.event().unwrap().path, path);

    let mut guest = Guest::new(&mut host, domid);
    assert_eq!(guest.read(&mut host, "data/x").as_deref(), Ok("from xl"));
    guest.write(&mut host, "data/y", "from the guest").unwrap();
    one.turn(&mut host);
    assert_eq!(one.client.event().unwrap().path, format!("{home}/data/y"));

    // The end of the channel is that of its watches and transactions.
    let start = two.client.start().unwrap();
    two.finish(&mut host, start).unwrap();
    for channel in [one.channel, two.channel] {
        host.client.close(channel, CloseReason::Done);
    }
    host.pump();
    host.store_is_consistent();
}

#[test]
fn who_sends_the_store_nonsense_loses_that_connection_alone() {
    let mut host = Host::new();
    let channel = host.open();
    host.send(channel, Request::AttachStore);
    host.send(channel, Request::StoreInput(vec![0xff; 100]));
    let replies = host.replies(channel);
    assert!(
        matches!(
            &replies[..],
            [Reply::Done, Reply::Error(Error::BadRequest(_))]
        ),
        "{replies:?}"
    );
    // The channel takes requests again, and what is still on its way is dropped.
    host.send(channel, Request::StoreInput(vec![0xff; 100]));
    host.send(channel, Request::Hello);
    assert!(matches!(host.replies(channel)[..], [Reply::Hello { .. }]));
}

#[test]
fn who_does_not_read_what_the_store_says_holds_up_nobody() {
    let mut host = Host::new();
    let mut lazy = Remote::attach(&mut host);
    let value = vec![b'v'; 4000];
    let write = lazy.client.write(NONE, "/tool/big", &value).unwrap();
    lazy.finish(&mut host, write).unwrap();
    host.deaf = Some(lazy.channel);
    for _ in 0..200 {
        lazy.client.read(NONE, "/tool/big").unwrap();
    }
    let bytes = lazy.client.output().to_vec();
    for piece in bytes.chunks(1000) {
        host.send(lazy.channel, Request::StoreInput(piece.to_vec()));
    }
    let config = host.config("web");
    host.create(config);
    host.deaf = None;
    host.client_reads(lazy.channel);
    let mut count = 0;
    for reply in host.replies(lazy.channel) {
        if let Reply::StoreOutput(bytes) = reply {
            count += bytes.len();
        }
    }
    assert_eq!(count, 200 * (16 + 4000));
}
