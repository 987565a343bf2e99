//! The life of a backend.

use super::State;

/// What a backend has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes.
    Wait,
    /// Write what it offers; then [`Backend::offered`].
    Offer,
    /// Read the frontend's nodes, map its rings and bind its ports, and write what the device is like;
    /// then [`Backend::connected`], or [`Backend::fail`] with nothing kept.
    Connect,
    /// Take no more requests, wait for those that are under way, and let go of all that is the
    /// frontend's; then [`Backend::disconnected`].
    Disconnect,
    /// The device is over: its nodes may go.
    Remove,
}

/// A backend's state.
#[derive(Clone, Debug)]
pub struct Backend {
    state: State,
    /// Whether it has something of the frontend's.
    linked: bool,
}

impl Backend {
    /// A backend whose nodes the toolstack has just made.
    pub fn new() -> Self {
        Self {
            state: State::Initialising,
            linked: false,
        }
    }

    /// What the node `state` is to say.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it may use the frontend's rings.
    pub fn is_linked(&self) -> bool {
        self.linked
    }

    /// What to do, the frontend being in state `front` and the backend's own node `online` not 0.
    pub fn advance(&mut self, front: State, online: bool) -> Step {
        use State::*;
        let up = matches!(
            front,
            Initialised | Connected | Reconfiguring | Reconfigured
        );
        if self.linked {
            // A frontend that starts anew, or is gone, has as little use for the rings as one that
            // closes.
            return if up { Step::Wait } else { Step::Disconnect };
        }
        if self.state == Initialising {
            return Step::Offer;
        }
        if self.state == InitWait {
            match front {
                Initialised | Connected if online => return Step::Connect,
                Closing => self.state = Closing,
                // One that has closed may see the offer and begin anew.
                Closed | Unknown | Initialising if !online => self.state = Closed,
                _ => {}
            }
        }
        if matches!(self.state, Connected | Closing) {
            self.state = match front {
                Closed | Unknown | Initialising => Closed,
                _ => Closing,
            };
        }
        if self.state == Closed {
            return match front {
                Initialising if online => Step::Offer,
                Closed | Unknown | Initialising if !online => Step::Remove,
                _ => Step::Wait,
            };
        }
        Step::Wait
    }

    /// [`Step::Offer`] is done.
    pub fn offered(&mut self) {
        self.state = State::InitWait;
    }

    /// [`Step::Connect`] is done.
    pub fn connected(&mut self) {
        self.state = State::Connected;
        self.linked = true;
    }

    /// [`Step::Disconnect`] is done.
    pub fn disconnected(&mut self) {
        self.linked = false;
    }

    /// The frontend cannot be connected to, or breaks the protocol: whatever was its has been let go
    /// of. It may close and begin anew.
    pub fn fail(&mut self) {
        self.state = State::Closing;
        self.linked = false;
    }

    /// The toolstack asks for the device's end. The frontend may finish what it is doing.
    pub fn close(&mut self) {
        if self.state != State::Closed {
            self.state = State::Closing;
        }
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self::new()
    }
}
