//! What can happen, and who it happens to.

use qcc_control::registry::CheckId;

use crate::{
    invariants::Violation,
    network::{Frame, Way, Wire},
    world::World,
};

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A frame arrives.
    Arrive {
        proxy: usize,
        wire: Wire,
        way: Way,
        frame: Frame,
    },
    /// The writer takes what has come.
    Turn { life: u64 },
    /// The registry wants to be told the time.
    Due { life: u64 },
    /// A stream of views has room.
    Room { wire: Wire },
    /// A stream of views has been silent for as long as it may.
    Bookmark { wire: Wire },
    /// The control plane looks whether a connection still lives.
    Probe { wire: Wire },
    /// The control plane notices that a connection is gone.
    Gone { wire: Wire },
    /// The control plane starts again.
    StartControl,
    /// A proxy starts again.
    StartProxy { proxy: usize },
    /// A proxy has waited for its first view for long enough.
    Restore { proxy: usize, run: u64 },
    /// A proxy connects.
    Connect { proxy: usize, run: u64 },
    /// A proxy notices that its connection is gone.
    Lost { proxy: usize, wire: Wire },
    /// A proxy looks whether it has heard of the control plane.
    Listen { proxy: usize, wire: Wire },
    /// A proxy's reporter wakes.
    Report { proxy: usize, wire: Wire },
    /// A client sends a request, and another one later.
    Client { proxy: usize },
    /// A client request goes on.
    Proceed {
        proxy: usize,
        run: u64,
        request: u64,
    },
    /// A client request holds something against an endpoint, and has for long enough.
    Stand {
        proxy: usize,
        run: u64,
        request: u64,
    },
    /// A 2xx head comes.
    Head {
        proxy: usize,
        run: u64,
        attempt: u64,
    },
    /// An attempt ends.
    Finish {
        proxy: usize,
        run: u64,
        attempt: u64,
    },
    /// A check ends.
    Checked { life: u64, check: CheckId },
    /// Something goes wrong.
    Fault,
    /// A way is mended.
    Mend { proxy: usize, way: Way },
    /// A proxy reaches endpoints again.
    Egress { proxy: usize },
    /// A slow reader reads again.
    Swift { proxy: usize },
    /// An endpoint changes.
    Mood,
    /// An operator acts.
    Operate,
    /// An operator notices that the control plane knows nothing any more.
    ApplyAgain,
    /// An operator, who heard nothing, asks again.
    Repeat { request: usize },
    /// Faults stop.
    Calm,
    /// Everything must be as it should.
    End,
}

impl World {
    /// Lets one thing happen.
    pub(crate) fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Arrive {
                proxy,
                wire,
                way,
                frame,
            } => self.arrive(proxy, wire, way, frame),
            Event::Turn { life } => self.turn(life),
            Event::Due { life } => self.due(life),
            Event::Room { wire } => self.room(wire),
            Event::Bookmark { wire } => self.bookmark(wire),
            Event::Probe { wire } => self.probe(wire),
            Event::Gone { wire } => {
                self.drop_connection(wire);
                Ok(())
            }
            Event::StartControl => self.start_control(),
            Event::StartProxy { proxy } => {
                self.start_proxy(proxy);
                Ok(())
            }
            Event::Restore { proxy, run } => self.restore(proxy, run),
            Event::Connect { proxy, run } => {
                self.connect(proxy, run);
                Ok(())
            }
            Event::Lost { proxy, wire } => {
                self.lose(proxy, wire);
                Ok(())
            }
            Event::Listen { proxy, wire } => {
                self.listen(proxy, wire);
                Ok(())
            }
            Event::Report { proxy, wire } => self.report(proxy, wire),
            Event::Client { proxy } => self.client(proxy),
            Event::Proceed {
                proxy,
                run,
                request,
            } => self.proceed(proxy, run, request),
            Event::Stand {
                proxy,
                run,
                request,
            } => {
                self.stand(proxy, run, request);
                Ok(())
            }
            Event::Head {
                proxy,
                run,
                attempt,
            } => {
                self.head(proxy, run, attempt);
                Ok(())
            }
            Event::Finish {
                proxy,
                run,
                attempt,
            } => self.finish(proxy, run, attempt),
            Event::Checked { life, check } => self.checked(life, check),
            Event::Fault => self.fault(),
            Event::Mend { proxy, way } => {
                self.network.cut(proxy, way, false);
                self.note(format_args!("mended {way:?} of p{proxy}"));
                Ok(())
            }
            Event::Egress { proxy } => {
                self.nodes[proxy].egress = true;
                self.note(format_args!("p{proxy} reaches endpoints again"));
                Ok(())
            }
            Event::Swift { proxy } => {
                self.nodes[proxy].slow = false;
                Ok(())
            }
            Event::Mood => {
                self.mood();
                Ok(())
            }
            Event::Operate => {
                self.operate();
                Ok(())
            }
            Event::ApplyAgain => {
                self.apply_again();
                Ok(())
            }
            Event::Repeat { request } => {
                self.repeat(request);
                Ok(())
            }
            Event::Calm => {
                self.grow_calm();
                Ok(())
            }
            Event::End => Ok(()),
        }
    }
}
