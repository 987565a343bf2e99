//! What the guest does.

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use pv_guest::events::own_domid;
use pv_guest::line::LineEditor;
use pv_guest::memory::Frames;
use pv_guest::power::{Reason, shutdown};
use pv_guest::store::store;
use pv_guest::{
    balloon, boot, clock, console, control, hotplug, hypercall, memory, print, println, vcpus,
};

pv_guest::entry!(main);

const PAGE: usize = 4096;

/// Seconds that the other vCPUs counted, all together.
static SECONDS: AtomicU32 = AtomicU32::new(0);

async fn main() {
    banner();
    pv_guest::spawn(control::obey(async |_| println!("good bye"))).detach();
    pv_guest::spawn(balloon::follow_target()).detach();
    pv_guest::spawn(hotplug::follow_availability(count_on)).detach();
    pv_guest::spawn(tick()).detach();
    converse().await;
}

/// What the guest found in its start info, and about its processor.
fn banner() {
    let info = boot::start_info();
    let (major, minor) = hypercall::system::version();
    println!();
    println!(
        "Hello from a PV guest on {} (version {major}.{minor}).",
        boot::magic()
    );
    println!(
        "  memory       {} pages, {} KiB free",
        info.nr_pages,
        memory::free_bytes() / 1024
    );
    print!("  flags        {:#x}", info.flags);
    for (set, name) in [
        (boot::is_privileged(), " privileged"),
        (boot::is_initial_domain(), " initial-domain"),
    ] {
        print!("{}", if set { name } else { "" });
    }
    println!();
    println!("  shared info  machine address {:#x}", info.shared_info);
    println!(
        "  page tables  root {}, {} at start",
        memory::root(),
        info.nr_pt_frames
    );
    match boot::store_ring() {
        Some((frame, port)) => println!("  store        frame {frame}, port {port}"),
        None => println!("  store        none"),
    }
    match boot::console_ring() {
        Some((frame, port)) => println!("  console      frame {frame}, port {port}"),
        None => println!("  console      the hypervisor's"),
    }
    println!("  command line {:?}", boot::command_line());
    match boot::module() {
        [] => println!("  module       none"),
        module => println!("  module       {} bytes", module.len()),
    }
    println!("  processor    {} MHz", clock::tsc_frequency() / 1_000_000);
    match own_domid() {
        Ok(domain) => println!("  domain       {domain}"),
        Err(error) => println!("  domain       unknown: {error:?}"),
    }
    println!("Type `help` for what I understand.");
}

/// Prints the time once a second, at whole seconds from the start.
async fn tick() {
    let start = clock::now();
    for second in 1.. {
        clock::sleep_until(start + second * 1_000_000_000).await;
        let now = clock::now() / 1_000_000;
        println!(
            "tick {second}: {}.{:03} s since power-on",
            now / 1000,
            now % 1000
        );
    }
}

/// What a vCPU does besides the boot vCPU: it counts seconds, as long as it is up.
async fn count_on() {
    println!("vCPU {} is up", vcpus::current());
    loop {
        clock::sleep(Duration::from_secs(1)).await;
        SECONDS.fetch_add(1, Relaxed);
    }
}

/// Reads lines and does what they say.
async fn converse() {
    let mut editor = LineEditor::new();
    let mut echo = Vec::new();
    let mut typed = [0; 64];
    loop {
        let count = console::read(&mut typed).await;
        for byte in &typed[..count] {
            let line = editor.feed(*byte, &mut echo);
            console::write(&echo);
            echo.clear();
            if let Some(line) = line {
                obey(line.trim());
            }
        }
    }
}

fn obey(line: &str) {
    match line {
        "" => {}
        "help" => println!(
            "memory, fill, vcpus, read PATH, write PATH VALUE, halt, reboot, crash, help; anything else is echoed"
        ),
        "memory" => match memory::pages() {
            Ok(pages) => println!(
                "memory: {} KiB of at most {} KiB, {} KiB free",
                pages * 4,
                memory::frame_count() * 4,
                memory::free_bytes() / 1024
            ),
            Err(error) => println!("memory: unknown: {error}"),
        },
        "fill" => {
            let (count, right) = fill();
            let verdict = if count == right { "all" } else { "not all" };
            println!("fill: {count} pages, {verdict} as written");
        }
        "vcpus" => println!(
            "vcpus: {:?} up, {} s counted",
            (0..vcpus::count())
                .filter(|id| hypercall::vcpu::is_up(*id) == Ok(true))
                .collect::<Vec<_>>(),
            SECONDS.load(Relaxed)
        ),
        "halt" => {
            println!("good bye");
            shutdown(Reason::PowerOff)
        }
        "reboot" => {
            println!("see you");
            shutdown(Reason::Reboot)
        }
        "crash" => panic!("as you wish"),
        _ => match *line.splitn(3, ' ').collect::<Vec<_>>() {
            ["read", path] => consult(path, None),
            ["write", path, value] => consult(path, Some(value)),
            _ => println!("you typed: {line}"),
        },
    }
}

/// Reads a node of the store, or gives it a value, and prints what comes of it.
fn consult(path: &str, value: Option<&str>) {
    let (path, value) = (String::from(path), value.map(String::from));
    pv_guest::spawn(async move {
        let done = async {
            let store = store()?;
            match value {
                Some(value) => store.write(&path, value).await.map(|()| "written".into()),
                None => store.read(&path).await,
            }
        };
        match done.await {
            Ok(value) => println!("{path}: {}", String::from_utf8_lossy(&value)),
            Err(error) => println!("{path}: {error}"),
        }
    })
    .detach();
}

/// Takes all free memory but some, writes a number of its own to each page, and looks how many have
/// it then.
fn fill() -> (usize, usize) {
    /// Bytes that are left for whatever else happens: 1 MiB.
    const LEFT: usize = 1 << 20;
    let count = memory::free_bytes().saturating_sub(LEFT) / PAGE;
    let mut frames: Vec<Frames> = Vec::with_capacity(count);
    frames.extend((0..count).map_while(|_| Frames::zeroed(0)));
    for (number, frame) in frames.iter_mut().enumerate() {
        frame.as_mut_slice()[..8].copy_from_slice(&number.to_le_bytes());
    }
    let right = frames
        .iter()
        .enumerate()
        .filter(|(number, frame)| frame.as_slice()[..8] == number.to_le_bytes());
    (frames.len(), right.count())
}
