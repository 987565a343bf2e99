//! Physical interrupts that guests handle.

/// Interrupt lines that guests have bound.
pub struct Pirqs;

impl Pirqs {
    /// None bound.
    pub fn new() -> Self {
        Self
    }
}
