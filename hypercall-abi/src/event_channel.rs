//! Event channels: alloc, bind, send, close (`xen/event_channel.h`).

use crate::layout::{constants, structs};
use crate::types::{Domid, Port, Union};

constants! {
    /// Connect a new local port to an unbound port of another domain: `EvtchnBindInterdomain`.
    pub const EVTCHNOP_BIND_INTERDOMAIN: u32 = 0;
    /// Bind a new port to a virtual interrupt: `EvtchnBindVirq`.
    pub const EVTCHNOP_BIND_VIRQ: u32 = 1;
    /// Bind a new port to a physical interrupt: `EvtchnBindPirq`.
    pub const EVTCHNOP_BIND_PIRQ: u32 = 2;
    /// Close a port: `EvtchnClose`.
    pub const EVTCHNOP_CLOSE: u32 = 3;
    /// Send an event to the other end: `EvtchnSend`.
    pub const EVTCHNOP_SEND: u32 = 4;
    /// Ask what a port is bound to: `EvtchnStatus`.
    pub const EVTCHNOP_STATUS: u32 = 5;
    /// Make a port that another domain may connect to: `EvtchnAllocUnbound`.
    pub const EVTCHNOP_ALLOC_UNBOUND: u32 = 6;
    /// Bind a new port to events among the vCPUs of a domain: `EvtchnBindIpi`.
    pub const EVTCHNOP_BIND_IPI: u32 = 7;
    /// Choose the vCPU that a port notifies: `EvtchnBindVcpu`.
    pub const EVTCHNOP_BIND_VCPU: u32 = 8;
    /// Unmask a port, with an upcall if it is pending: `EvtchnUnmask`.
    pub const EVTCHNOP_UNMASK: u32 = 9;
    /// Close all ports: `EvtchnReset`.
    pub const EVTCHNOP_RESET: u32 = 10;
    /// Give a vCPU's control block for FIFO event channels: `EvtchnInitControl`.
    pub const EVTCHNOP_INIT_CONTROL: u32 = 11;
    /// Add a page to the array of FIFO event words: `EvtchnExpandArray`.
    pub const EVTCHNOP_EXPAND_ARRAY: u32 = 12;
    /// Set a FIFO event channel's priority: `EvtchnSetPriority`.
    pub const EVTCHNOP_SET_PRIORITY: u32 = 13;

    /// `EvtchnBindPirq::flags`: the interrupt may be shared.
    pub const BIND_PIRQ_WILL_SHARE: u32 = 1 => "BIND_PIRQ__WILL_SHARE";

    /// `EvtchnStatus::status`: free.
    pub const EVTCHNSTAT_CLOSED: u32 = 0;
    /// `EvtchnStatus::status`: another domain may connect.
    pub const EVTCHNSTAT_UNBOUND: u32 = 1;
    /// `EvtchnStatus::status`: connected.
    pub const EVTCHNSTAT_INTERDOMAIN: u32 = 2;
    /// `EvtchnStatus::status`: bound to a physical interrupt.
    pub const EVTCHNSTAT_PIRQ: u32 = 3;
    /// `EvtchnStatus::status`: bound to a virtual interrupt.
    pub const EVTCHNSTAT_VIRQ: u32 = 4;
    /// `EvtchnStatus::status`: bound among vCPUs.
    pub const EVTCHNSTAT_IPI: u32 = 5;

    /// Number of ports with bits in the shared page, port 0 included.
    pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;
    /// The most urgent priority of a FIFO event channel.
    pub const EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
    /// The priority of a new FIFO event channel.
    pub const EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
    /// The least urgent priority of a FIFO event channel.
    pub const EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
    /// Number of priorities.
    pub const EVTCHN_FIFO_MAX_QUEUES: u32 = EVTCHN_FIFO_PRIORITY_MIN + 1;
    /// Bit of a FIFO event word: pending.
    pub const EVTCHN_FIFO_PENDING: u32 = 31;
    /// Bit of a FIFO event word: masked.
    pub const EVTCHN_FIFO_MASKED: u32 = 30;
    /// Bit of a FIFO event word: on a queue.
    pub const EVTCHN_FIFO_LINKED: u32 = 29;
    /// Bit of a FIFO event word: being linked.
    pub const EVTCHN_FIFO_BUSY: u32 = 28;
    /// Bits of a FIFO event word that name the next port.
    pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
    /// Those bits.
    pub const EVTCHN_FIFO_LINK_MASK: u32 = (1 << EVTCHN_FIFO_LINK_BITS) - 1;
    /// Number of FIFO event channels of a domain.
    pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << EVTCHN_FIFO_LINK_BITS;
}

structs! {
    /// `EVTCHNOP_ALLOC_UNBOUND`: a port of `dom` that `remote_dom` may connect to.
    pub struct EvtchnAllocUnbound[8] = "struct evtchn_alloc_unbound" {
        /// In: whose port; another domain than `Domid::SELF` by privileged callers only.
        pub dom: Domid,
        /// In: who may connect.
        pub remote_dom: Domid,
        /// Out: the port.
        pub port: Port,
    }

    /// `EVTCHNOP_BIND_INTERDOMAIN`: a local port, connected.
    pub struct EvtchnBindInterdomain[12] = "struct evtchn_bind_interdomain" {
        /// In: the domain to connect to.
        pub remote_dom: Domid,
        /// Zero.
        pub _pad0: u16,
        /// In: its port.
        pub remote_port: Port,
        /// Out: the local port.
        pub local_port: Port,
    }

    /// `EVTCHNOP_BIND_VIRQ`: a port for a virtual interrupt.
    pub struct EvtchnBindVirq[12] = "struct evtchn_bind_virq" {
        /// In: `VIRQ_*`.
        pub virq: u32,
        /// In: the vCPU; 0 for a global one.
        pub vcpu: u32,
        /// Out: the port.
        pub port: Port,
    }

    /// `EVTCHNOP_BIND_PIRQ`: a port for a physical interrupt.
    pub struct EvtchnBindPirq[12] = "struct evtchn_bind_pirq" {
        /// In: the interrupt.
        pub pirq: u32,
        /// In: `BIND_PIRQ_WILL_SHARE` or 0.
        pub flags: u32,
        /// Out: the port.
        pub port: Port,
    }

    /// `EVTCHNOP_BIND_IPI`: a port on which vCPUs of a domain notify one of them.
    pub struct EvtchnBindIpi[8] = "struct evtchn_bind_ipi" {
        /// In: the vCPU to notify.
        pub vcpu: u32,
        /// Out: the port.
        pub port: Port,
    }

    /// `EVTCHNOP_CLOSE`.
    pub struct EvtchnClose[4] = "struct evtchn_close" {
        /// In: the port.
        pub port: Port,
    }

    /// `EVTCHNOP_SEND`.
    pub struct EvtchnSend[4] = "struct evtchn_send" {
        /// In: the local port.
        pub port: Port,
    }

    /// `EVTCHNOP_STATUS`: what a port is.
    pub struct EvtchnStatus[24] = "struct evtchn_status" {
        /// In: whose port; another domain than `Domid::SELF` by privileged callers only.
        pub dom: Domid,
        /// Zero.
        pub _pad0: u16,
        /// In: the port.
        pub port: Port,
        /// Out: `EVTCHNSTAT_*`.
        pub status: u32,
        /// Out: the vCPU that it notifies.
        pub vcpu: u32,
        /// Out: an `EvtchnStatusUnbound`, an `EvtchnStatusInterdomain`, or the number of the
        /// interrupt, a `u32`.
        pub u: Union<u32, 2>,
    }

    /// `EvtchnStatus::u` of an unbound port.
    pub struct EvtchnStatusUnbound[2] = "struct evtchn_status.u.unbound" {
        /// The domain that may connect.
        pub dom: Domid,
    }

    /// `EvtchnStatus::u` of a connected port.
    pub struct EvtchnStatusInterdomain[8] = "struct evtchn_status.u.interdomain" {
        /// The domain at the other end.
        pub dom: Domid,
        /// Zero.
        pub _pad0: u16,
        /// Its port.
        pub port: Port,
    }

    /// `EVTCHNOP_BIND_VCPU`.
    pub struct EvtchnBindVcpu[8] = "struct evtchn_bind_vcpu" {
        /// In: the port.
        pub port: Port,
        /// In: the vCPU to notify.
        pub vcpu: u32,
    }

    /// `EVTCHNOP_UNMASK`.
    pub struct EvtchnUnmask[4] = "struct evtchn_unmask" {
        /// In: the port.
        pub port: Port,
    }

    /// `EVTCHNOP_RESET`.
    pub struct EvtchnReset[2] = "struct evtchn_reset" {
        /// In: whose ports; another domain than `Domid::SELF` by privileged callers only.
        pub dom: Domid,
    }

    /// `EVTCHNOP_INIT_CONTROL`: a vCPU's control block.
    pub struct EvtchnInitControl[24] = "struct evtchn_init_control" {
        /// In: its frame.
        pub control_gfn: u64,
        /// In: its offset in the frame, in bytes, a multiple of 8.
        pub offset: u32,
        /// In: the vCPU.
        pub vcpu: u32,
        /// Out: bits of an event word that name the next port.
        pub link_bits: u8,
        /// Zero.
        pub _pad: [u8; 7],
    }

    /// `EVTCHNOP_EXPAND_ARRAY`: another page of event words.
    pub struct EvtchnExpandArray[8] = "struct evtchn_expand_array" {
        /// In: its frame.
        pub array_gfn: u64,
    }

    /// `EVTCHNOP_SET_PRIORITY`.
    pub struct EvtchnSetPriority[8] = "struct evtchn_set_priority" {
        /// In: the port.
        pub port: Port,
        /// In: from `EVTCHN_FIFO_PRIORITY_MAX` to `EVTCHN_FIFO_PRIORITY_MIN`.
        pub priority: u32,
    }

    /// The argument of the compatible form of the hypercall.
    pub struct EvtchnOp[28] = "struct evtchn_op" {
        /// `EVTCHNOP_*` up to `EVTCHNOP_UNMASK`.
        pub cmd: u32,
        /// The operation's struct.
        pub u: Union<u32, 6>,
    }

    /// A vCPU's queues of FIFO events, shared with the guest.
    pub struct EvtchnFifoControlBlock[72] = "struct evtchn_fifo_control_block" {
        /// A bit per queue that is not empty.
        pub ready: u32,
        /// Zero.
        pub _rsvd: u32,
        /// The first port of each queue.
        pub head: [u32; 16],
    }
}
