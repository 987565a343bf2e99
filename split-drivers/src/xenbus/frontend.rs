//! The life of a frontend.

use super::State;

/// What a frontend has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes.
    Wait,
    /// Read what the backend offers, make rings, and write them; then [`Frontend::offered`], or
    /// [`Frontend::fail`] with nothing kept.
    Connect,
    /// Read what the device is like; then [`Frontend::connected`], or [`Frontend::fail`]. The rings can
    /// be used.
    Start,
    /// Make no more requests. Those that have no answer may be waited for if the backend is still
    /// [connected](Frontend::is_served), else they are lost. Then [`Frontend::quiet`].
    Quiesce,
    /// Let go of the rings, which the backend does not use any more; then [`Frontend::released`].
    Release,
}

/// A frontend's state.
#[derive(Clone, Debug)]
pub struct Frontend {
    state: State,
    /// Whether it has rings that the backend may use.
    linked: bool,
    /// Whether it is not to begin anew.
    over: bool,
    /// Whether the offer that the backend makes was of no use.
    failed: bool,
    /// As the backend was last seen.
    back: State,
}

impl Frontend {
    /// A frontend whose nodes the toolstack has just made.
    pub fn new() -> Self {
        Self {
            state: State::Initialising,
            linked: false,
            over: false,
            failed: false,
            back: State::Unknown,
        }
    }

    /// What the node `state` is to say.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether requests that are under way may still be answered.
    pub fn is_served(&self) -> bool {
        self.linked && matches!(self.back, State::Connected | State::Closing)
    }

    /// What to do, the backend being in state `back`.
    pub fn advance(&mut self, back: State) -> Step {
        use State::*;
        self.back = back;
        self.failed &= back == InitWait;
        match self.state {
            Initialising if !self.over => match back {
                // One that offers nothing may be waiting for the rings already.
                InitWait | Initialised => Step::Connect,
                Closing => {
                    self.state = Closed;
                    Step::Wait
                }
                _ => Step::Wait,
            },
            Initialised => match back {
                Connected => Step::Start,
                InitWait | Initialised => Step::Wait,
                _ => Step::Quiesce,
            },
            Connected if matches!(back, Connected | Reconfiguring | Reconfigured) => Step::Wait,
            Connected => Step::Quiesce,
            Closing => Step::Quiesce,
            Closed => match back {
                // It may look at the rings until it says that it does not.
                Connected | Closing | Initialised | Reconfiguring | Reconfigured => Step::Wait,
                _ if self.linked => Step::Release,
                Initialising | InitWait if !self.over && !self.failed => {
                    self.state = Initialising;
                    self.advance(back)
                }
                _ => Step::Wait,
            },
            _ => Step::Wait,
        }
    }

    /// [`Step::Connect`] is done.
    pub fn offered(&mut self) {
        self.state = State::Initialised;
        self.linked = true;
    }

    /// [`Step::Start`] is done.
    pub fn connected(&mut self) {
        self.state = State::Connected;
    }

    /// [`Step::Quiesce`] is done.
    pub fn quiet(&mut self) {
        self.state = State::Closed;
    }

    /// [`Step::Release`] is done.
    pub fn released(&mut self) {
        self.linked = false;
    }

    /// The backend cannot be connected to, or breaks the protocol. It may begin anew, with another
    /// offer.
    pub fn fail(&mut self) {
        self.failed = true;
        self.state = State::Closed;
    }

    /// This end asks for the device's end, and does not begin anew.
    pub fn close(&mut self) {
        self.over = true;
        if self.state != State::Closed {
            self.state = State::Closing;
        }
    }
}

impl Default for Frontend {
    fn default() -> Self {
        Self::new()
    }
}
