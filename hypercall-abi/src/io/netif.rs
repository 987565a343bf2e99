//! The network protocol (`xen/io/netif.h`): rings to transmit, to receive, and for control.

use crate::layout::{constants, structs};
use crate::types::{GrantRef, Union};

constants! {
    /// Least number of slots that a backend takes for a packet.
    pub const XEN_NETIF_NR_SLOTS_MIN: usize = 18;
    /// Hash of IPv4 addresses.
    pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4: u32 = 1 << 0;
    /// Hash of IPv4 addresses and TCP ports.
    pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP: u32 = 1 << 1;
    /// Hash of IPv6 addresses.
    pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6: u32 = 1 << 2;
    /// Hash of IPv6 addresses and TCP ports.
    pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP: u32 = 1 << 3;
    /// No hash.
    pub const XEN_NETIF_CTRL_HASH_ALGORITHM_NONE: u32 = 0;
    /// Toeplitz hash.
    pub const XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ: u32 = 1;
    /// `NetifCtrlRequest::type_`: none.
    pub const XEN_NETIF_CTRL_TYPE_INVALID: u16 = 0;
    /// `NetifCtrlRequest::type_`: get the kinds of hash there are.
    pub const XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS: u16 = 1;
    /// `NetifCtrlRequest::type_`: set the kinds of hash to use.
    pub const XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS: u16 = 2;
    /// `NetifCtrlRequest::type_`: set the hash's key.
    pub const XEN_NETIF_CTRL_TYPE_SET_HASH_KEY: u16 = 3;
    /// `NetifCtrlRequest::type_`: get the largest size of the table of queues.
    pub const XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE: u16 = 4;
    /// `NetifCtrlRequest::type_`: set the size of the table of queues.
    pub const XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE: u16 = 5;
    /// `NetifCtrlRequest::type_`: set part of the table of queues.
    pub const XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING: u16 = 6;
    /// `NetifCtrlRequest::type_`: set the hash.
    pub const XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM: u16 = 7;
    /// `NetifCtrlRequest::type_`: get how many grants the backend keeps mapped.
    pub const XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE: u16 = 8;
    /// `NetifCtrlRequest::type_`: keep grants mapped.
    pub const XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING: u16 = 9;
    /// `NetifCtrlRequest::type_`: unmap them.
    pub const XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING: u16 = 10;
    /// `NetifCtrlResponse::status`: done.
    pub const XEN_NETIF_CTRL_STATUS_SUCCESS: u32 = 0;
    /// `NetifCtrlResponse::status`: not supported.
    pub const XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED: u32 = 1;
    /// `NetifCtrlResponse::status`: wrong argument.
    pub const XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER: u32 = 2;
    /// `NetifCtrlResponse::status`: too much.
    pub const XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW: u32 = 3;
    /// `NetifGref::flags`: no writes.
    pub const XEN_NETIF_CTRLF_GREF_READONLY: u16 = 1 << 0;
    /// `NetifTxRequest::flags`: the checksum is to be filled in.
    pub const NETTXF_CSUM_BLANK: u16 = 1 << 0;
    /// `NetifTxRequest::flags`: the data need no check.
    pub const NETTXF_DATA_VALIDATED: u16 = 1 << 1;
    /// `NetifTxRequest::flags`: the packet goes on in the next request.
    pub const NETTXF_MORE_DATA: u16 = 1 << 2;
    /// `NetifTxRequest::flags`: a `NetifExtraInfo` follows.
    pub const NETTXF_EXTRA_INFO: u16 = 1 << 3;
    /// Most bytes of a packet to transmit.
    pub const XEN_NETIF_MAX_TX_SIZE: usize = 0xffff;
    /// `NetifExtraInfo::type_`: none.
    pub const XEN_NETIF_EXTRA_TYPE_NONE: u8 = 0;
    /// `NetifExtraInfo::type_`: segmentation, `NetifExtraGso`.
    pub const XEN_NETIF_EXTRA_TYPE_GSO: u8 = 1;
    /// `NetifExtraInfo::type_`: join a multicast group, `NetifExtraMcast`.
    pub const XEN_NETIF_EXTRA_TYPE_MCAST_ADD: u8 = 2;
    /// `NetifExtraInfo::type_`: leave a multicast group, `NetifExtraMcast`.
    pub const XEN_NETIF_EXTRA_TYPE_MCAST_DEL: u8 = 3;
    /// `NetifExtraInfo::type_`: hash, `NetifExtraHash`.
    pub const XEN_NETIF_EXTRA_TYPE_HASH: u8 = 4;
    /// One more than the highest type.
    pub const XEN_NETIF_EXTRA_TYPE_MAX: u8 = 5;
    /// `NetifExtraInfo::flags`: another follows.
    pub const XEN_NETIF_EXTRA_FLAG_MORE: u8 = 1 << 0;
    /// `NetifExtraGso::type_`: none.
    pub const XEN_NETIF_GSO_TYPE_NONE: u8 = 0;
    /// `NetifExtraGso::type_`: TCP on IPv4.
    pub const XEN_NETIF_GSO_TYPE_TCPV4: u8 = 1;
    /// `NetifExtraGso::type_`: TCP on IPv6.
    pub const XEN_NETIF_GSO_TYPE_TCPV6: u8 = 2;
    /// `NetifRxResponse::flags`: the data need no check.
    pub const NETRXF_DATA_VALIDATED: u16 = 1 << 0;
    /// `NetifRxResponse::flags`: the checksum is not filled in.
    pub const NETRXF_CSUM_BLANK: u16 = 1 << 1;
    /// `NetifRxResponse::flags`: the packet goes on in the next response.
    pub const NETRXF_MORE_DATA: u16 = 1 << 2;
    /// `NetifRxResponse::flags`: a `NetifExtraInfo` follows.
    pub const NETRXF_EXTRA_INFO: u16 = 1 << 3;
    /// `NetifRxResponse::flags`: segmentation, as it was before `NetifExtraInfo`.
    pub const NETRXF_GSO_PREFIX: u16 = 1 << 4;
    /// `NetifTxResponse::status`: dropped.
    pub const NETIF_RSP_DROPPED: i16 = -2;
    /// `NetifTxResponse::status`: failed.
    pub const NETIF_RSP_ERROR: i16 = -1;
    /// `NetifTxResponse::status`: done.
    pub const NETIF_RSP_OKAY: i16 = 0;
    /// `NetifTxResponse::status`: in the place of a `NetifExtraInfo`.
    pub const NETIF_RSP_NULL: i16 = 1;
    /// Size of an entry of the transmit ring in bytes.
    pub const NETIF_TX_ENTRY_SIZE: usize = 12 => "sizeof(union netif_tx_sring_entry)";
    /// Size of an entry of the receive ring in bytes.
    pub const NETIF_RX_ENTRY_SIZE: usize = 8 => "sizeof(union netif_rx_sring_entry)";
    /// Size of an entry of the control ring in bytes.
    pub const NETIF_CTRL_ENTRY_SIZE: usize = 16 => "sizeof(union xen_netif_ctrl_sring_entry)";
}

structs! {
    /// A request on the control ring.
    pub struct NetifCtrlRequest[16] = "struct xen_netif_ctrl_request" {
        /// The frontend's own, the same in the response.
        pub id: u16,
        /// `XEN_NETIF_CTRL_TYPE_*`.
        pub type_: u16,
        /// Arguments.
        pub data: [u32; 3],
    }

    /// A response on the control ring.
    pub struct NetifCtrlResponse[12] = "struct xen_netif_ctrl_response" {
        /// The request's.
        pub id: u16,
        /// The request's.
        pub type_: u16,
        /// `XEN_NETIF_CTRL_STATUS_*`.
        pub status: u32,
        /// Answer.
        pub data: u32,
    }

    /// A grant that the backend keeps mapped.
    pub struct NetifGref[8] = "struct xen_netif_gref" {
        /// The grant.
        pub ref_: GrantRef,
        /// `XEN_NETIF_CTRLF_GREF_READONLY` or 0.
        pub flags: u16,
        /// Out: `XEN_NETIF_CTRL_STATUS_*`.
        pub status: u16,
    }

    /// A packet to transmit, or part of one.
    pub struct NetifTxRequest[12] = "struct netif_tx_request" {
        /// The page.
        pub gref: GrantRef,
        /// First byte.
        pub offset: u16,
        /// `NETTXF_*`.
        pub flags: u16,
        /// The frontend's own, the same in the response.
        pub id: u16,
        /// Number of bytes, in the first part that of the whole packet.
        pub size: u16,
    }

    /// More about a packet, in the place of a request or response.
    pub struct NetifExtraInfo[8] = "struct netif_extra_info" {
        /// `XEN_NETIF_EXTRA_TYPE_*`.
        pub type_: u8,
        /// `XEN_NETIF_EXTRA_FLAG_MORE` or 0.
        pub flags: u8,
        /// The type's struct.
        pub u: Union<u16, 3>,
    }

    /// `NetifExtraInfo::u` for segmentation.
    pub struct NetifExtraGso[6] = "struct netif_extra_info.u.gso" {
        /// Most bytes of payload in a segment.
        pub size: u16,
        /// `XEN_NETIF_GSO_TYPE_*`.
        pub type_: u8,
        /// Zero.
        pub pad: u8,
        /// Zero.
        pub features: u16,
    }

    /// `NetifExtraInfo::u` for multicast groups.
    pub struct NetifExtraMcast[6] = "struct netif_extra_info.u.mcast" {
        /// The group's address.
        pub addr: [u8; 6],
    }

    /// `NetifExtraInfo::u` for a hash.
    pub struct NetifExtraHash[6] = "struct netif_extra_info.u.hash" {
        /// The number of the bit `XEN_NETIF_CTRL_HASH_TYPE_*`.
        pub type_: u8,
        /// `XEN_NETIF_CTRL_HASH_ALGORITHM_*`.
        pub algorithm: u8,
        /// The hash.
        pub value: [u8; 4],
    }

    /// A response on the transmit ring.
    pub struct NetifTxResponse[4] = "struct netif_tx_response" {
        /// The request's.
        pub id: u16,
        /// `NETIF_RSP_*`.
        pub status: i16,
    }

    /// A page to receive into.
    pub struct NetifRxRequest[8] = "struct netif_rx_request" {
        /// The frontend's own, the same in the response.
        pub id: u16,
        /// Zero.
        pub pad: u16,
        /// The page.
        pub gref: GrantRef,
    }

    /// A packet that was received, or part of one.
    pub struct NetifRxResponse[8] = "struct netif_rx_response" {
        /// The request's.
        pub id: u16,
        /// First byte.
        pub offset: u16,
        /// `NETRXF_*`.
        pub flags: u16,
        /// Number of bytes, or `NETIF_RSP_*` if negative.
        pub status: i16,
    }
}
