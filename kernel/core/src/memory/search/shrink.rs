//! Makes a failing sequence short, and a test of it.

use std::fmt::Write;
use std::string::String;
use std::vec::Vec;

use super::{Step, attempt};

/// The shortest sequence found that still fails, somehow, when whatever can be left out is.
pub(super) fn shrink(steps: &[Step]) -> Vec<Step> {
    let mut steps = steps.to_vec();
    loop {
        let before = steps.len();
        leave_out(&mut steps);
        let simpler = simplify(&mut steps);
        if steps.len() == before && !simpler {
            return steps;
        }
    }
}

fn fails(steps: &[Step]) -> bool {
    attempt(&mut steps.iter().cloned()).is_err()
}

/// Leaves out runs of steps, of half the length to single ones.
fn leave_out(steps: &mut Vec<Step>) {
    let mut run = steps.len().div_ceil(2);
    while run > 0 {
        let mut from = 0;
        while from < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(from..steps.len().min(from + run));
            if fails(&fewer) {
                *steps = fewer;
            } else {
                from += run;
            }
        }
        run /= 2;
    }
}

/// Leaves out members of the lists in steps; whether any could be.
fn simplify(steps: &mut [Step]) -> bool {
    let mut simpler = false;
    for at in 0..steps.len() {
        let mut index = 0;
        loop {
            let before = steps[at].clone();
            if !steps[at].remove(index) {
                break;
            }
            if fails(steps) {
                simpler = true;
            } else {
                steps[at] = before;
                index += 1;
            }
        }
    }
    simpler
}

impl Step {
    /// Takes a member out of the list that the step has; `false` where there is none.
    fn remove(&mut self, index: usize) -> bool {
        fn take<T>(list: &mut Vec<T>, index: usize) -> bool {
            let there = index < list.len() && list.len() > 1;
            if there {
                list.remove(index);
            }
            there
        }
        match self {
            Self::Furnish(_, _, list, _) | Self::Run(_, _, list, _) => take(list, index),
            Self::Batch(_, list) => take(list, index),
            Self::Linear(_, _, _, list) => take(list, index),
            Self::Reservation(.., list) | Self::Exchange(.., list) | Self::Gdt(_, list) => {
                take(list, index)
            }
            _ => false,
        }
    }
}

/// A sequence as the text of a test.
pub(super) fn as_test(steps: &[Step]) -> String {
    let mut text = String::from("#[test]\nfn a_sentence_about_what_was_wrong() {\n    replay(&[\n");
    for step in steps {
        // What is debugged is Rust, but for lists.
        let step = std::format!("{step:?}").replace('[', "vec![");
        let _ = writeln!(text, "        {step},");
    }
    text.push_str("    ]);\n}\n");
    text
}
