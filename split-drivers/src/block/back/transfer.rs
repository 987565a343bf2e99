//! Copies between guest and buffers, in batches.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::io::blkif::BlkifRequestSegment;
use hypercall_abi::types::GrantRef;

use super::Taken;
use crate::SharedMemory;
use crate::block::PAGE;
use crate::block::request::{Segment, Segments};
use crate::grants::{Copy, Grants, Place};

/// Copies of several requests, all in one direction.
pub(super) struct Batch<'a, B, P> {
    mapped: Option<&'a BTreeMap<GrantRef, P>>,
    to_guest: bool,
    copies: Vec<Copy<'a, B, P>>,
    /// The number of each request, and how many copies it has.
    requests: Vec<(u64, usize)>,
}

impl<'a, B, P> Batch<'a, B, P> {
    pub fn new(mapped: Option<&'a BTreeMap<GrantRef, P>>, to_guest: bool) -> Self {
        Self {
            mapped,
            to_guest,
            copies: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// Adds a request: its segments follow each other in the buffer.
    pub fn add(&mut self, request: u64, segments: &[Segment], buffer: &'a B) {
        let mut at = 0;
        for segment in segments {
            self.copies.push(Copy {
                page: place(self.mapped, segment.gref),
                offset: segment.offset(),
                buffer,
                at,
                bytes: segment.bytes(),
                to_guest: self.to_guest,
            });
            at += segment.bytes();
        }
        self.requests.push((request, segments.len()));
    }

    /// Does it; for each request whether all of it was copied.
    pub fn run<G>(self, grants: &mut G) -> Vec<(u64, bool)>
    where
        G: Grants<Buffer = B, Page = P>,
    {
        let mut done = match self.copies.as_slice() {
            [] => Vec::new(),
            copies => grants.copy(copies),
        }
        .into_iter();
        self.requests
            .into_iter()
            .map(|(request, count)| {
                let mine = done.by_ref().take(count);
                // All are taken, also behind one that failed.
                let copied = mine.filter(|done| *done).count();
                (request, copied == count)
            })
            .collect()
    }
}

/// How a page is reached.
fn place<P>(mapped: Option<&BTreeMap<GrantRef, P>>, gref: GrantRef) -> Place<'_, P> {
    let page = mapped.and_then(|mapped| mapped.get(&gref));
    page.map_or(Place::Grant(gref), Place::Mapped)
}

/// The pages that have the list of an indirect request's segments.
pub(super) fn indirect_pages<B>(it: &Taken<B>) -> &[GrantRef] {
    match it.transfer().map(|transfer| &transfer.segments) {
        Some(Segments::Indirect { pages, .. }) => pages,
        _ => &[],
    }
}

/// The lists of segments of indirect requests, copied from the guest once; none for other requests, and
/// where a page cannot be had.
pub(super) fn indirect_lists<G: Grants>(
    grants: &mut G,
    taken: &[Taken<G::Buffer>],
    mapped: Option<&BTreeMap<GrantRef, G::Page>>,
) -> Vec<Option<Vec<u8>>> {
    let size = size_of::<BlkifRequestSegment>();
    let lists: Vec<_> = taken
        .iter()
        .map(|it| match &it.transfer()?.segments {
            Segments::Indirect { count, pages } => Some((count * size, pages)),
            Segments::Direct(_) => None,
        })
        .collect();
    // The request's own buffer is large enough, and not in use yet.
    let mut copies = Vec::new();
    for (it, list) in taken.iter().zip(&lists) {
        let (Some((bytes, pages)), Some(buffer)) = (list, &it.buffer) else {
            continue;
        };
        for (nth, page) in pages.iter().enumerate() {
            copies.push(Copy {
                page: place(mapped, *page),
                offset: 0,
                buffer,
                at: nth * PAGE,
                bytes: (bytes - nth * PAGE).min(PAGE),
                to_guest: false,
            });
        }
    }
    let mut done = match copies.as_slice() {
        [] => Vec::new(),
        copies => grants.copy(copies),
    }
    .into_iter();
    taken
        .iter()
        .zip(lists)
        .map(|(it, list)| {
            let (bytes, pages) = list?;
            let copied = done.by_ref().take(pages.len()).filter(|done| *done).count();
            let mut list = vec![0; bytes];
            it.buffer.as_ref()?.read(0, &mut list);
            (copied == pages.len()).then_some(list)
        })
        .collect()
}
