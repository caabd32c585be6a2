# Runs the machines as libvirt domains with KVM. Where KVM does not work, QEMU emulates them.

require_relative "provider"

class LibvirtProvider < Provider
  POOL = "/var/lib/libvirt/images".freeze
  EMULATED = 8 # factor for every wait, measured with five emulated machines on two cores
  VIRSH = %w[virsh --connect qemu:///system].freeze

  def initialize(lab)
    super
    @lab.slow_down(EMULATED) unless kvm?
  end

  def machine(node, name, machine, _argv)
    node.vm.box = @lab.data["boxes"]["libvirt"]
    node.vm.hostname = name
    node.vm.network "private_network", ip: machine["address"], libvirt__network_name: network, libvirt__dhcp_enabled: false, libvirt__forward_mode: "none"
    node.vm.provider "libvirt" do |provider|
      provider.uri = "qemu:///system"
      provider.driver = kvm? ? "kvm" : "qemu"
      provider.cpu_mode = kvm? ? "host-model" : "maximum"
      provider.memory = memory(machine)
      provider.cpus = 2
      provider.graphics_type = "none"
      # Writes stay in the host's memory: they survive a power-off of the machine, but not of the host.
      provider.disk_driver cache: "unsafe"
      # virtiofs shares the machine's memory with the process that serves the folder.
      provider.memorybacking :access, mode: "shared"
      provider.memorybacking :source, type: "memfd"
    end
  end

  # libvirt does not support read-only virtiofs.
  def synced_folder(_access) = { type: "virtiofs" }

  def check(create:)
    check_daemon
    super
    if create
      check_others
      check_interfaces(interface)
    end
    return if kvm?

    say "no KVM: the machines are emulated, about ten times slower; every wait is #{@lab.data['time_factor']} times longer (TIME_FACTOR)"
  end

  private

  def virsh(*words) = command(*VIRSH, *words)

  def check_daemon
    virsh("uri")
  rescue Errno::ENOENT
    raise Lab::Invalid, "no libvirt: the command virsh is not installed. `PROVIDER=libvirt make up` installs and starts it."
  rescue Lab::Invalid => e
    raise Lab::Invalid, "no libvirt: #{e.message}\nStart it (`PROVIDER=libvirt make up`), or #{joining('libvirt', 'libvirtd')}."
  end

  # Named after its subnet: another checkout may use another one.
  def network = "airflow-lab-#{@lab.data['network'][/\d+\.\d+\.\d+/]}"

  def check_others
    mine = created.map { |name| identity(name) }
    other = (virsh("list", "--uuid").split - mine).find { |id| virsh("domiflist", id).include?(network) }
    return unless other

    raise Lab::Invalid, "the network #{@lab.data['network']} is in use: machines of #{virsh('desc', other)[%r{Source: (.*)/Vagrantfile}, 1]} are " \
                        "running on it. Call `vagrant halt` there, or choose another network for this lab in config/lab.json."
  end

  # `make up` tested KVM with a kernel: /dev/kvm may exist and still not run one.
  def kvm? = File.exist?(@lab.state("kvm"))

  def running = created.select { |name| virsh("domstate", identity(name)).strip == "running" }

  def interface
    virsh("net-info", network)[/^Bridge:\s+(\S+)/, 1]
  rescue Lab::Invalid
    nil
  end

  def disk = File.directory?(POOL) ? POOL : super
end
