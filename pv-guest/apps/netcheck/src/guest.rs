use alloc::vec;
use core::future::pending;

use pv_guest::net::{Error, IpEndpoint, Ipv4Address, Ipv4Cidr, Network, TcpStream};
use pv_guest::power::{Reason, shutdown};
use pv_guest::store::store;
use pv_guest::{boot, clock, control, println, spawn};

pv_guest::entry!(main);

/// Bytes that are written or read at a time.
const PART: usize = 64 * 1024;
/// How long to wait until the next attempt to connect.
const AGAIN: core::time::Duration = core::time::Duration::from_millis(200);
/// How long an answer to a ping may take.
const PATIENCE: core::time::Duration = core::time::Duration::from_secs(3);
/// Of so much there is a line when there is no end.
const REPORT: u64 = 16 << 20;

fn number(name: &str, default: u64) -> u64 {
    boot::option(name)
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn address(name: &str) -> Option<Ipv4Address> {
    boot::option(name)?.parse().ok()
}

async fn main() {
    spawn(control::obey(async |_| ())).detach();
    let Ok(store) = store() else {
        println!("netcheck: there is no store");
        shutdown(Reason::Crash)
    };
    let given = address("address").map(|address| Ipv4Cidr::new(address, 24));
    let network = Network::open(store, 0, given);
    let port = number("port", 5001) as u16;
    let own = network.address().await;
    println!("netcheck: has the address {own}");
    if let Some(to) = address("ping") {
        match network.ping(to, PATIENCE).await {
            Ok(Some(took)) => println!("netcheck: {to} answers in {} us", took.as_micros()),
            Ok(None) => println!("netcheck: {to} does not answer"),
            Err(error) => println!("netcheck: WRONG: {error}"),
        }
    }
    match address("to") {
        Some(to) => {
            let peer = IpEndpoint::new(to.into(), port);
            if let Err(error) = send(&network, peer, number("mib", 64) << 20).await {
                println!("netcheck: WRONG: {error}");
            }
            if boot::option("stop").is_some() {
                shutdown(Reason::PowerOff)
            }
        }
        None => loop {
            match network.listen(port).accept().await {
                // One whose other end is silent keeps no other waiting.
                Ok(stream) => spawn(serve(stream)).detach(),
                Err(error) => println!("netcheck: {error}"),
            }
        },
    }
    // Whoever wants to know looks at the console.
    pending::<()>().await;
}

async fn send(network: &Network, peer: IpEndpoint, bytes: u64) -> Result<(), Error> {
    // The other one may not be up yet.
    let stream = loop {
        match network.connect(peer).await {
            Ok(stream) => break stream,
            Err(_) => clock::sleep(AGAIN).await,
        }
    };
    let start = clock::now();
    let mut content = Content::default();
    let mut part = vec![0; PART];
    let mut sent = 0;
    while bytes == 0 || sent < bytes {
        content.fill(&mut part);
        stream.write(&part).await?;
        sent += PART as u64;
        if bytes == 0 && sent.is_multiple_of(REPORT) {
            println!("netcheck: {} MiB sent", sent >> 20);
        }
    }
    stream.finish();
    // The other end says how much it found to be right.
    let mut answer = [0; 8];
    let mut have = 0;
    while have < answer.len() {
        match stream.read(&mut answer[have..]).await? {
            0 => return Err(Error::Closed),
            count => have += count,
        }
    }
    let right = u64::from_le_bytes(answer);
    stream.close().await;
    let millis = ((clock::now() - start) / 1_000_000).max(1);
    if right == sent {
        println!(
            "netcheck: {} MiB sent in {millis} ms, {} MiB/s: all arrived",
            sent >> 20,
            (sent >> 20) * 1000 / millis
        );
    } else {
        println!("netcheck: WRONG: {right} of {sent} bytes arrived");
    }
    Ok(())
}

async fn serve(stream: TcpStream) {
    if let Err(error) = receive(stream).await {
        println!("netcheck: {error}");
    }
}

async fn receive(stream: TcpStream) -> Result<(), Error> {
    let mut content = Content::default();
    let (mut bytes, mut expected) = (vec![0; PART], vec![0; PART]);
    let mut right = 0_u64;
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            break;
        }
        let expected = &mut expected[..count];
        content.fill(expected);
        if bytes[..count] != *expected {
            println!("netcheck: WRONG: bytes from {right} on are not what was sent");
            return Err(Error::Closed);
        }
        right += count as u64;
    }
    println!("netcheck: {} MiB received, as they were sent", right >> 20);
    stream.write(&right.to_le_bytes()).await?;
    stream.close().await;
    Ok(())
}

/// Bytes without an evident order (xorshift), eight from each number.
#[derive(Default)]
struct Content {
    state: u64,
    /// How many of the number's bytes were used.
    used: usize,
}

impl Content {
    /// The bytes of the number.
    fn word(&self) -> [u8; 8] {
        (self.state ^ self.state >> 29)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
            .to_le_bytes()
    }

    fn next_word(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.word()
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let word = self.word();
        let left = match self.used {
            0 => &[],
            used => &word[used..],
        };
        let (begun, rest) = bytes.split_at_mut(left.len().min(bytes.len()));
        begun.copy_from_slice(&left[..begun.len()]);
        self.used = (self.used + begun.len()) % word.len();
        // By words, or making them takes longer than sending them.
        let (words, rest) = rest.as_chunks_mut();
        for word in words {
            *word = self.next_word();
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&self.next_word()[..rest.len()]);
            self.used = rest.len();
        }
    }
}
