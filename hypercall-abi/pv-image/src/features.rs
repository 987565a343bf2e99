//! Features that a kernel supports or requires: the notes `FEATURES` and `SUPPORTED_FEATURES`.

use crate::ImageError;
use alloc::string::String;
use hypercall_abi::features::*;

/// Names that the note `FEATURES` may use.
const NAMES: [(&str, u32); 7] = [
    ("writable_page_tables", XENFEAT_WRITABLE_PAGE_TABLES),
    (
        "writable_descriptor_tables",
        XENFEAT_WRITABLE_DESCRIPTOR_TABLES,
    ),
    ("auto_translated_physmap", XENFEAT_AUTO_TRANSLATED_PHYSMAP),
    ("supervisor_mode_kernel", XENFEAT_SUPERVISOR_MODE_KERNEL),
    ("pae_pgdir_above_4gb", XENFEAT_PAE_PGDIR_ABOVE_4GB),
    ("hvm_callback_vector", XENFEAT_HVM_CALLBACK_VECTOR),
    ("dom0", XENFEAT_DOM0),
];

/// Two sets of `XENFEAT_*` bits (submap 0, bit n for feature n).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// What the kernel can make use of.
    pub supported: u32,
    /// What the kernel does not run without; a subset of `supported`.
    pub required: u32,
}

impl Features {
    /// Adds the features of a string such as `!writable_page_tables|dom0`. Unknown names are
    /// ignored unless they are marked as required.
    pub(crate) fn add_string(&mut self, list: &str) -> Result<(), ImageError> {
        for item in list.split('|') {
            let (name, required) = match item.strip_prefix('!') {
                Some(name) => (name, true),
                None => (item, false),
            };
            match NAMES.iter().find(|(known, _)| *known == name) {
                Some((_, bit)) => {
                    self.supported |= 1 << bit;
                    if required {
                        self.required |= 1 << bit;
                    }
                }
                None if required => return Err(ImageError::UnknownFeature(String::from(name))),
                None => {}
            }
        }
        Ok(())
    }

    pub(crate) fn supports_dom0(&self) -> bool {
        self.supported & (1 << XENFEAT_DOM0) != 0
    }

    pub(crate) fn requires_dom0(&self) -> bool {
        self.required & (1 << XENFEAT_DOM0) != 0
    }

    /// Refuses what only HVM guests have, or no guest of a 64-bit hypervisor.
    pub(crate) fn check_pv(&self) -> Result<(), ImageError> {
        for bit in [
            XENFEAT_AUTO_TRANSLATED_PHYSMAP,
            XENFEAT_SUPERVISOR_MODE_KERNEL,
            XENFEAT_HVM_CALLBACK_VECTOR,
        ] {
            if self.required & (1 << bit) != 0 {
                let name = NAMES
                    .iter()
                    .find(|(_, n)| *n == bit)
                    .map_or("", |(name, _)| name);
                return Err(ImageError::UnsupportedFeature(name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_feature_is_also_supported() {
        let mut features = Features::default();
        features
            .add_string("!writable_page_tables|dom0|some_news")
            .unwrap();
        assert_eq!(
            features,
            Features {
                supported: 1 | 1 << 11,
                required: 1
            }
        );
    }

    #[test]
    fn an_unknown_required_feature_is_refused_by_name() {
        let error = Features::default().add_string("dom0|!warp").unwrap_err();
        assert_eq!(error, ImageError::UnknownFeature(String::from("warp")));
    }
}
