//! What goes wrong, when, and how it ends.

use crate::{
    disk::Death,
    event::Event,
    invariants::Violation,
    network::Way,
    plan::Fault,
    time::{MS, S},
    upstream::Mood,
    world::World,
};

impl World {
    /// Plans the next fault.
    pub(crate) fn plan_fault(&mut self) {
        if !self.plan.faults.is_empty() {
            let pace = self.plan.fault_pace;
            let wait = self.random.within(pace / 4..pace * 2);
            self.after(wait, Event::Fault);
        }
    }

    /// Plans the next change of an endpoint.
    pub(crate) fn plan_mood(&mut self) {
        let pace = self.plan.mood_pace;
        let wait = self.random.within(pace / 4..pace * 2);
        self.after(wait, Event::Mood);
    }

    /// Lets something go wrong.
    pub(crate) fn fault(&mut self) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        let which = self.random.index(self.plan.faults.len());
        let fault = self.plan.faults[which];
        let proxy = self.random.index(self.nodes.len());
        let lasts = self.random.span(100 * MS, 60 * S);
        self.turn_to(format_args!("fault: {fault:?} (p{proxy})"));
        match fault {
            Fault::Partition => {
                for way in [Way::Up, Way::Down] {
                    self.network.cut(proxy, way, true);
                    self.after(lasts, Event::Mend { proxy, way });
                }
            }
            Fault::HalfPartition => {
                let way = if self.random.percent(50) {
                    Way::Up
                } else {
                    Way::Down
                };
                self.network.cut(proxy, way, true);
                self.after(lasts, Event::Mend { proxy, way });
            }
            Fault::Break => self.break_connection(proxy),
            Fault::Flood => (0..self.nodes.len()).for_each(|proxy| self.break_connection(proxy)),
            Fault::ControlDies => self.kill_control(),
            Fault::ControlDiesCommitting => {
                let kept = self.random.percent(40);
                self.disk.die(if kept { Death::Kept } else { Death::Lost });
            }
            Fault::ControlLosesDisk => self.lose_disk(),
            Fault::ProxyDies => self.kill_proxy(proxy),
            Fault::NoEgress => {
                self.nodes[proxy].egress = false;
                self.after(lasts, Event::Egress { proxy });
            }
            Fault::WallJumps => self.jump_wall(),
            Fault::SlowReader => {
                self.nodes[proxy].slow = true;
                self.after(lasts, Event::Swift { proxy });
            }
            Fault::Burst => {
                for _ in 0..self.random.within(2..20) {
                    self.begin(proxy)?;
                }
            }
        }
        self.plan_fault();
        Ok(())
    }

    /// Lets the control plane die and lose its disk, which mostly happens once.
    fn lose_disk(&mut self) {
        self.kill_control();
        self.disk.lose();
        self.judge.loses_disk();
        let noticed = self.random.span(S, 30 * S);
        self.after(noticed, Event::ApplyAgain);
        if self.random.percent(70) {
            let others = |fault: &Fault| *fault != Fault::ControlLosesDisk;
            self.plan.faults.retain(others);
        }
    }

    fn break_connection(&mut self, proxy: usize) {
        if let Some(wire) = self.nodes[proxy].wire() {
            let soon = self.random.span(MS, S);
            self.after(soon, Event::Lost { proxy, wire });
        }
    }

    /// Lets an endpoint become bad, or good again.
    pub(crate) fn mood(&mut self) {
        if self.calm {
            return;
        }
        let names = self.names();
        if !names.is_empty() {
            let name = names[self.random.index(names.len())].clone();
            let good = self.random.percent(45);
            let mood = if good {
                Mood::Good
            } else {
                Mood::bad(&mut self.random)
            };
            self.turn_to(format_args!("{name} is {mood:?} from now on"));
            self.upstreams.turn(&name, mood);
        }
        self.plan_mood();
    }

    /// Ends all faults: from here on everything has to become good by itself.
    pub(crate) fn grow_calm(&mut self) {
        self.turn_to(format_args!("calm"));
        self.calm = true;
        self.network.mend();
        for proxy in 0..self.nodes.len() {
            self.nodes[proxy].egress = true;
            self.nodes[proxy].slow = false;
            self.after(S, Event::StartProxy { proxy });
        }
        self.disk.recover();
        self.after(S, Event::StartControl);
        self.upstreams.heal();
        self.calm_down();
        self.judge.calm(self.now);
    }
}
