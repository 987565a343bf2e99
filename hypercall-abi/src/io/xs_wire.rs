//! Messages to and from the store, and the page that carries them (`xen/io/xs_wire.h`).

use crate::layout::{constants, structs, texts};

constants! {
    /// Control the store; arguments are the command's.
    pub const XS_CONTROL: u32 = 0;
    /// An older name of `XS_CONTROL`.
    pub const XS_DEBUG: u32 = XS_CONTROL;
    /// List a node's children.
    pub const XS_DIRECTORY: u32 = 1;
    /// Read a node.
    pub const XS_READ: u32 = 2;
    /// Get a node's permissions.
    pub const XS_GET_PERMS: u32 = 3;
    /// Watch a node and those below it.
    pub const XS_WATCH: u32 = 4;
    /// Stop watching.
    pub const XS_UNWATCH: u32 = 5;
    /// Start a transaction.
    pub const XS_TRANSACTION_START: u32 = 6;
    /// End a transaction.
    pub const XS_TRANSACTION_END: u32 = 7;
    /// A domain is there.
    pub const XS_INTRODUCE: u32 = 8;
    /// A domain is gone.
    pub const XS_RELEASE: u32 = 9;
    /// Get the path of a domain's nodes.
    pub const XS_GET_DOMAIN_PATH: u32 = 10;
    /// Write a node.
    pub const XS_WRITE: u32 = 11;
    /// Create a node, unless it exists.
    pub const XS_MKDIR: u32 = 12;
    /// Remove a node and those below it.
    pub const XS_RM: u32 = 13;
    /// Set a node's permissions.
    pub const XS_SET_PERMS: u32 = 14;
    /// From the store: a watched node changed.
    pub const XS_WATCH_EVENT: u32 = 15;
    /// From the store: the error's name.
    pub const XS_ERROR: u32 = 16;
    /// Whether a domain was introduced.
    pub const XS_IS_DOMAIN_INTRODUCED: u32 = 17;
    /// A domain goes on after a suspend.
    pub const XS_RESUME: u32 = 18;
    /// A domain may act for another.
    pub const XS_SET_TARGET: u32 = 19;
    /// Stop watching everything.
    pub const XS_RESET_WATCHES: u32 = 21;
    /// List part of a node's children.
    pub const XS_DIRECTORY_PART: u32 = 22;
    /// One more than the highest type.
    pub const XS_TYPE_COUNT: u32 = 23;
    /// A type that will never be.
    pub const XS_INVALID: u32 = 0xffff;

    /// First string of a watch event: path.
    pub const XS_WATCH_PATH: u32 = 0;
    /// Second string of a watch event: token.
    pub const XS_WATCH_TOKEN: u32 = 1;

    /// Size of each of the page's rings, in bytes.
    pub const XENSTORE_RING_SIZE: usize = 1024;
    /// Most bytes after a message's header. One that has more ends the connection.
    pub const XENSTORE_PAYLOAD_MAX: usize = 4096;
    /// Most bytes of a path from the root.
    pub const XENSTORE_ABS_PATH_MAX: usize = 3072;
    /// Most bytes of a path from a domain's node.
    pub const XENSTORE_REL_PATH_MAX: usize = 2048;

    /// `XenstoreDomainInterface::server_features`: `connection` is understood.
    pub const XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
    /// `XenstoreDomainInterface::server_features`: `error` is used.
    pub const XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;
    /// `XenstoreDomainInterface::connection`: connected.
    pub const XENSTORE_CONNECTED: u32 = 0;
    /// `XenstoreDomainInterface::connection`: the guest wants to begin anew.
    pub const XENSTORE_RECONNECT: u32 = 1;
    /// `XenstoreDomainInterface::error`: none.
    pub const XENSTORE_ERROR_NONE: u32 = 0;
    /// `XenstoreDomainInterface::error`: the connection failed.
    pub const XENSTORE_ERROR_COMM: u32 = 1;
    /// `XenstoreDomainInterface::error`: an index is wrong.
    pub const XENSTORE_ERROR_RINGIDX: u32 = 2;
    /// `XenstoreDomainInterface::error`: a message is wrong.
    pub const XENSTORE_ERROR_PROTO: u32 = 3;
}

texts! {
    /// How to write: the node exists.
    pub const XS_WRITE_NONE: &str = "NONE";
    /// How to write: the node may be created.
    pub const XS_WRITE_CREATE: &str = "CREATE";
    /// How to write: the node does not exist.
    pub const XS_WRITE_CREATE_EXCL: &str = "CREATE|EXCL";
}

structs! {
    /// A message's header.
    pub struct XsdSockmsg[16] = "struct xsd_sockmsg" {
        /// `XS_*`.
        pub type_: u32,
        /// The request's number, the same in its answer.
        pub req_id: u32,
        /// The transaction's number, 0 for none.
        pub tx_id: u32,
        /// Number of bytes that follow.
        pub len: u32,
    }

    /// The shared page's contents. Indices count bytes for ever, modulo 2^32.
    pub struct XenstoreDomainInterface[2076] = "struct xenstore_domain_interface" {
        /// Bytes to the store.
        pub req: [u8; XENSTORE_RING_SIZE],
        /// Bytes from the store.
        pub rsp: [u8; XENSTORE_RING_SIZE],
        /// Index up to which the store has read `req`.
        pub req_cons: u32,
        /// Index up to which the guest has written `req`.
        pub req_prod: u32,
        /// Index up to which the guest has read `rsp`.
        pub rsp_cons: u32,
        /// Index up to which the store has written `rsp`.
        pub rsp_prod: u32,
        /// `XENSTORE_SERVER_FEATURE_*`.
        pub server_features: u32,
        /// `XENSTORE_CONNECTED` or `XENSTORE_RECONNECT`.
        pub connection: u32,
        /// `XENSTORE_ERROR_*`.
        pub error: u32,
    }
}

/// Errors that the store returns, by number and name (`xsd_errors`).
pub const XSD_ERRORS: [(crate::errno::Errno, &str); 16] = {
    use crate::errno::Errno::*;
    [
        (EINVAL, "EINVAL"),
        (EACCES, "EACCES"),
        (EEXIST, "EEXIST"),
        (EISDIR, "EISDIR"),
        (ENOENT, "ENOENT"),
        (ENOMEM, "ENOMEM"),
        (ENOSPC, "ENOSPC"),
        (EIO, "EIO"),
        (ENOTEMPTY, "ENOTEMPTY"),
        (ENOSYS, "ENOSYS"),
        (EROFS, "EROFS"),
        (EBUSY, "EBUSY"),
        (EAGAIN, "EAGAIN"),
        (EISCONN, "EISCONN"),
        (E2BIG, "E2BIG"),
        (EPERM, "EPERM"),
    ]
};
