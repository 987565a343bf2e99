//! The command line: xl's commands and options.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{trace, xenstore};

/// xl: the toolstack's command line, as Xen's.
#[derive(Debug, Parser)]
#[command(
    name = "xl",
    version,
    about = "Manage the domains of a Xenolith host",
    infer_subcommands = true,
    disable_help_subcommand = true,
    after_help = "`xl help COMMAND` tells more about a command."
)]
pub struct Cli {
    /// Which host: its name, or the path of its control socket. Needed when several are running.
    #[arg(long, global = true, env = "XENOLITH_HOST", value_name = "NAME")]
    pub host: Option<String>,
    /// Tell which host is spoken to; may be repeated.
    #[arg(short, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Do it even if another xl seems to be at work; xl's hosts here need no such lock.
    #[arg(short)]
    pub force: bool,
    /// Show what would be done and do nothing, for commands that can.
    #[arg(short = 'N')]
    pub dry_run: bool,
    /// Progress in one line; that is what is done on terminals anyway.
    #[arg(short = 't', hide = true)]
    pub progress_use_cr: bool,
    /// Timestamps in messages; none are given here.
    #[arg(short = 'T', hide = true)]
    pub timestamps: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// A domain, by id or name.
#[derive(Debug, Args)]
pub struct DomainArg {
    /// The domain's id or name.
    #[arg(value_name = "Domain")]
    pub domain: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a domain from a config file
    Create(CreateArgs),
    /// List information about all/some domains
    List(ListArgs),
    /// Attach to domain's console
    Console(ConsoleArgs),
    /// Pause execution of a domain
    Pause(DomainArg),
    /// Unpause a paused domain
    Unpause(DomainArg),
    /// Issue a shutdown signal to a domain
    Shutdown(ShutdownArgs),
    /// Issue a reboot signal to a domain
    Reboot(ShutdownArgs),
    /// Terminate a domain immediately
    Destroy(DestroyArgs),
    /// Convert a domain name to domain id
    Domid {
        /// The domain's name.
        #[arg(value_name = "DomainName")]
        name: String,
    },
    /// Convert a domain id to domain name
    Domname {
        /// The domain's id.
        #[arg(value_name = "DomainId")]
        domid: String,
    },
    /// Rename a domain
    Rename {
        /// The domain's id or name.
        #[arg(value_name = "Domain")]
        domain: String,
        /// The new name.
        #[arg(value_name = "NewDomainName")]
        name: String,
    },
    /// Send a sysrq to a domain
    Sysrq {
        /// The domain's id or name.
        #[arg(value_name = "Domain")]
        domain: String,
        /// The key.
        #[arg(value_name = "letter")]
        key: char,
    },
    /// Send a trigger to a domain
    Trigger(TriggerArgs),
    /// Set the current memory usage for a domain
    MemSet(MemoryArgs),
    /// Set the maximum amount reservation for a domain
    MemMax(MemoryArgs),
    /// Set the number of active VCPUs allowed for the domain
    VcpuSet(VcpuSetArgs),
    /// List the VCPUs for all/some domains
    VcpuList {
        /// The domains' ids or names; all if none is given
        #[arg(value_name = "Domain")]
        domains: Vec<String>,
    },
    /// Set which CPUs a VCPU can use
    VcpuPin(VcpuPinArgs),
    /// Get/set credit scheduler parameters
    SchedCredit(SchedCreditArgs),
    /// Create a new virtual block device
    BlockAttach(BlockAttachArgs),
    /// List virtual block devices for a domain
    BlockList {
        /// The domains' ids or names
        #[arg(value_name = "Domain", required = true)]
        domains: Vec<String>,
    },
    /// Destroy a domain's virtual block device
    BlockDetach(BlockDetachArgs),
    /// Create a new virtual network device
    NetworkAttach(NetworkAttachArgs),
    /// List virtual network interfaces for a domain
    NetworkList {
        /// The domains' ids or names
        #[arg(value_name = "Domain", required = true)]
        domains: Vec<String>,
    },
    /// Destroy a domain's virtual network device
    NetworkDetach(NetworkDetachArgs),
    /// The volumes that disks of domains can be
    Volume {
        /// What to do.
        #[command(subcommand)]
        command: VolumeCommand,
    },
    /// List guest domains, excluding dom0
    VmList,
    /// Update a running domain's saved configuration, used when rebuilding the domain after reboot
    ConfigUpdate(ConfigUpdateArgs),
    /// Monitor a host and the domains in real time
    Top(TopArgs),
    /// Record what the hypervisor does, as a timeline of VCPUs on CPUs
    Trace(TraceArgs),
    /// Read and write the store: the commands that Xen calls xenstore-read, xenstore-ls and so on
    Xenstore {
        /// Which.
        #[command(subcommand)]
        command: xenstore::Command,
    },
    /// Get information about Xen host
    Info(InfoArgs),
    /// Read and/or clear dmesg buffer
    Dmesg {
        /// Clear the buffer after printing.
        #[arg(short, long)]
        clear: bool,
    },
    /// Print uptime for all/some domains
    Uptime(UptimeArgs),
    /// Read commands from a prompt
    Shell,
    /// Print the versions of xl and of the host
    Version {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell about xl or about a command
    Help {
        /// The command.
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

/// Options of `create`.
#[derive(Debug, Args)]
#[command(
    after_help = "A kernel or ramdisk whose path is relative is looked for in the current \
    directory, then beside the config file."
)]
pub struct CreateArgs {
    /// The config file, and settings that overrule its own: key=value
    #[arg(value_name = "ConfigFile|key=value")]
    pub words: Vec<String>,
    /// Use the given configuration file
    #[arg(short = 'f', long, value_name = "FILE")]
    pub defconfig: Option<PathBuf>,
    /// Connect to the console after the domain is created
    #[arg(short = 'c')]
    pub console: bool,
    /// Leave the domain paused after it is created
    #[arg(short = 'p')]
    pub paused: bool,
    /// Run in foreground until death of the domain
    #[arg(short = 'F')]
    pub foreground: bool,
    /// Do not wait in the background for the death of the domain; the host does that itself
    #[arg(short = 'e')]
    pub no_monitor: bool,
    /// Enable debug messages: print the resulting configuration
    #[arg(short = 'd')]
    pub debug: bool,
    /// Dry run - prints the resulting configuration
    #[arg(short = 'n', long = "dryrun")]
    pub dry_run: bool,
    /// Quiet
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Print the new domain's id and name as JSON
    #[arg(long)]
    pub json: bool,
    /// Ignore global masks in xl.conf; there are none
    #[arg(long = "ignore-global-affinity-masks", hide = true)]
    pub ignore_masks: bool,
}

/// Options of `top`: xentop's.
#[derive(Debug, Args)]
#[command(
    after_help = "Behind xentop's columns, EVENTS has how often events interrupted a domain since it was created, \
    modulo 2^32, and EVENTS/s how often since the sample before."
)]
pub struct TopArgs {
    /// Seconds between updates
    #[arg(short, long, value_name = "SECONDS", default_value_t = 3,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub delay: u64,
    /// Output vif network data
    #[arg(short, long)]
    pub networks: bool,
    /// Output vbd block device data
    #[arg(short = 'x', long)]
    pub vbds: bool,
    /// Repeat table header before each domain
    #[arg(short, long)]
    pub repeat_header: bool,
    /// Output vcpu data
    #[arg(short, long)]
    pub vcpus: bool,
    /// Output in batch mode, no user input accepted
    #[arg(short, long)]
    pub batch: bool,
    /// Number of iterations before exiting
    #[arg(short, long, value_name = "ITERATIONS",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: Option<u32>,
    /// Output the full domain name (not truncated)
    #[arg(short, long)]
    pub full_name: bool,
}

/// Options of `trace`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without a duration it goes on until it is interrupted. https://ui.perfetto.dev and \
    chrome://tracing open the file.\n\n\
    The classes of events are xentrace's gen, sched, dom0op and all, and mem, pv (hypercalls, traps, \
    page tables), hw, guest, and event (event channels)."
)]
pub struct TraceArgs {
    /// Run for so many seconds
    #[arg(short = 'T', long, value_name = "SECONDS", value_parser = trace::seconds)]
    pub duration: Option<Duration>,
    /// Classes of events, separated by commas, or a mask
    #[arg(short = 'e', long = "evt-mask", value_name = "CLASSES", default_value = "all",
          value_parser = trace::events)]
    pub events: u32,
    /// The file that is written
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What is written: JSON, or records for Xen's own tools
    #[arg(short, long, value_enum, default_value = "json")]
    pub format: TraceFormat,
    /// Draw a picture, too
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// What `trace` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceFormat {
    /// The trace-event format of Chrome and Perfetto.
    Json,
    /// What xentrace writes, for xenalyze and xentrace_format.
    Xentrace,
}

/// Options of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Output all VM details
    #[arg(short, long)]
    pub long: bool,
    /// Prints out UUIDs and security context
    #[arg(short, long)]
    pub verbose: bool,
    /// Prints out security context
    #[arg(short = 'Z', long)]
    pub context: bool,
    /// Prints the cpupool the domain is in
    #[arg(short, long)]
    pub cpupool: bool,
    /// Prints out NUMA node affinity
    #[arg(short, long)]
    pub numa: bool,
    /// The table as JSON
    #[arg(long)]
    pub json: bool,
    /// The domains' ids or names; all if none is given
    #[arg(value_name = "Domain")]
    pub domains: Vec<String>,
}

/// Options of `console`.
#[derive(Debug, Args)]
#[command(after_help = "Ctrl-] detaches.")]
pub struct ConsoleArgs {
    /// Console type; PV domains have pv only
    #[arg(short = 't', value_name = "type", default_value = "pv", value_parser = ["pv"])]
    pub kind: String,
    /// Console number; there is only 0
    #[arg(short = 'n', value_name = "number", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(..1))]
    pub number: u32,
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
}

/// Options of `shutdown` and `reboot`.
#[derive(Debug, Args)]
pub struct ShutdownArgs {
    /// All guest domains
    #[arg(short, long)]
    pub all: bool,
    /// Wait until it is done; given twice, until the domain is destroyed
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub wait: u8,
    /// Fall back to an ACPI event for HVM guests with no PV drivers; there are no HVM guests
    #[arg(short = 'F')]
    pub fallback: bool,
    /// How long each may take to acknowledge the request
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub timeout: u32,
    /// The domain's id or name
    #[arg(
        value_name = "Domain",
        conflicts_with = "all",
        required_unless_present = "all"
    )]
    pub domain: Option<String>,
}

/// Options of `destroy`.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Permit destroying domain 0, which the host will refuse
    #[arg(short)]
    pub force: bool,
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
}

/// Arguments of `trigger`.
#[derive(Debug, Args)]
pub struct TriggerArgs {
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
    /// The trigger; PV domains have nmi only
    #[arg(value_name = "nmi|reset|init|power|sleep|s3resume")]
    pub trigger: String,
    /// The vCPU
    #[arg(value_name = "VCPU", default_value_t = 0)]
    pub vcpu: u32,
}

/// Arguments of `mem-set` and `mem-max`.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
    /// How much: in MiB, or with one of b, k, m, g, t
    #[arg(value_name = "MemMB")]
    pub memory: String,
}

/// Options of `vcpu-set`.
#[derive(Debug, Args)]
pub struct VcpuSetArgs {
    /// Don't limit the vCPU based on the host CPU count
    #[arg(short, long)]
    pub ignore_host: bool,
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
    /// How many
    #[arg(value_name = "vCPUs")]
    pub vcpus: u32,
}

/// Options of `config-update`.
#[derive(Debug, Args)]
pub struct ConfigUpdateArgs {
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
    /// The config file, and settings that overrule its own: key=value
    #[arg(value_name = "ConfigFile|key=value")]
    pub words: Vec<String>,
    /// Use the given configuration file
    #[arg(short = 'f', long, value_name = "FILE")]
    pub defconfig: Option<PathBuf>,
    /// Enable debug messages: print the resulting configuration
    #[arg(short = 'd')]
    pub debug: bool,
    /// Quiet
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

/// Options of `vcpu-pin`.
#[derive(Debug, Args)]
#[command(
    after_help = "CPUs are numbers and ranges with commas in between, ^ before those that are \
    left out, or all; - leaves an affinity as it is."
)]
pub struct VcpuPinArgs {
    /// Undo an override of the VCPU's pinning done by the domain itself
    #[arg(short, long)]
    pub force: bool,
    /// Ignore global masks in xl.conf; there are none
    #[arg(short, long = "ignore-global-affinity-masks", hide = true)]
    pub ignore_masks: bool,
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
    /// The VCPU's number, or all
    #[arg(value_name = "VCPU|all")]
    pub vcpu: String,
    /// CPUs that it can use
    #[arg(value_name = "Hard affinity|-|all", allow_hyphen_values = true)]
    pub hard: String,
    /// CPUs that it had better use
    #[arg(value_name = "Soft affinity|-|all", allow_hyphen_values = true)]
    pub soft: Option<String>,
}

/// Options of `sched-credit`.
#[derive(Debug, Args)]
pub struct SchedCreditArgs {
    /// Domain to modify
    #[arg(short, long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Weight (int)
    #[arg(short, long, value_name = "WEIGHT")]
    pub weight: Option<u16>,
    /// Cap (int)
    #[arg(short, long, value_name = "CAP")]
    pub cap: Option<u16>,
    /// Query / modify scheduler parameters
    #[arg(short, long)]
    pub schedparam: bool,
    /// Set the timeslice, in milliseconds
    #[arg(short, long = "tslice_ms", value_name = "TSLICE")]
    pub timeslice_ms: Option<u32>,
    /// Set the scheduling rate limit, in microseconds
    #[arg(short, long = "ratelimit_us", value_name = "RLIMIT")]
    pub ratelimit_us: Option<u32>,
    /// Set the migration delay, in microseconds
    #[arg(short, long = "migration_delay_us", value_name = "DLY")]
    pub migration_delay_us: Option<u32>,
    /// Restrict output to CPUPOOL
    #[arg(short = 'p', long, value_name = "CPUPOOL")]
    pub cpupool: Option<String>,
}

/// Options of `info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// List host NUMA topology information
    #[arg(short, long)]
    pub numa: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Only the line that begins so, without its name
    #[arg(value_name = "Name")]
    pub name: Option<String>,
}

/// Options of `uptime`.
#[derive(Debug, Args)]
pub struct UptimeArgs {
    /// Shorter output
    #[arg(short)]
    pub short: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The domains' ids or names; all if none is given
    #[arg(value_name = "Domain")]
    pub domains: Vec<String>,
}

/// Options of `block-attach`.
#[derive(Debug, Args)]
pub struct BlockAttachArgs {
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
    /// The disk, as in xl.cfg; several words are its parts
    #[arg(value_name = "disk-spec-component", required = true)]
    pub disk: Vec<String>,
}

/// Options of `block-detach`.
#[derive(Debug, Args)]
pub struct BlockDetachArgs {
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
    /// The disk's name or number
    #[arg(value_name = "DevId")]
    pub vdev: String,
    /// Do not ask the guest
    #[arg(long)]
    pub force: bool,
}

/// Options of `network-attach`.
#[derive(Debug, Args)]
pub struct NetworkAttachArgs {
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
    /// What is said of the interface, as in xl.cfg; several words are its parts
    #[arg(value_name = "key=value")]
    pub vif: Vec<String>,
}

/// Options of `network-detach`.
#[derive(Debug, Args)]
pub struct NetworkDetachArgs {
    /// The domain's id or name
    #[arg(value_name = "Domain")]
    pub domain: String,
    /// The interface's number or address
    #[arg(value_name = "DevId|mac")]
    pub vif: String,
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List the volumes
    List,
    /// Make a volume of memory, which lasts until the host goes down
    Create {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Its size: MiB, or with b, k, m, g or t behind the number
        #[arg(value_name = "SIZE")]
        size: String,
    },
    /// Remove a volume that was made
    Remove {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Write a file to a volume, from its beginning on
    ///
    /// Nothing is written if a domain uses the volume, or if the file is larger than it is. What the volume has
    /// behind the file's end stays, but for the rest of the last sector, which becomes zeroes. An import that
    /// is interrupted leaves the beginning of the file on the volume, and behind that what was there before:
    /// import it again. Partitions of a disk are looked for when the host boots.
    Import {
        /// The volume's name
        #[arg(value_name = "NAME")]
        name: String,
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// First make the volume, of memory, as large as the file
        #[arg(short, long)]
        create: bool,
    },
    /// Write all of a volume to a file
    ///
    /// Nothing is written if a domain may write to the volume. The file is made, or replaced, when all of it
    /// is there: an export that is interrupted leaves what was there before.
    Export {
        /// The volume's name
        #[arg(value_name = "NAME")]
        name: String,
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}
