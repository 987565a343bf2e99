//! The hypervisor's trace on its way to xl.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// What xl asks about the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceRequest {
    /// Trace from now on. Answer: [`crate::Reply::Done`], then [`TraceReply::Records`] as they come,
    /// at last, after [`TraceRequest::End`], [`TraceReply::Ended`]. The channel's close ends it, too.
    /// Who reads too slowly loses records, which the records say.
    Begin {
        /// Which events: `TRC_*` of Xen's `trace.h`.
        events: u32,
    },
    /// Trace no more, and send what is left.
    End,
}

/// What dom0 answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceReply {
    /// Records of a CPU, in Xen's format, with time stamps of [`crate::HostInfo::cpu_khz`]. They may be cut anywhere; the next ones of that CPU go on
    /// there.
    Records {
        /// Which CPU.
        cpu: u32,
        /// At most [`crate::message::MAX_CHUNK`] bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// That was all.
    Ended,
}
