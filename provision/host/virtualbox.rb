# Runs the machines in VirtualBox, from a public box, in the network that VirtualBox allows by default.

require_relative "provider"

class VirtualBoxProvider < Provider
  def machine(node, name, machine, _argv)
    node.vm.box = @lab.data["boxes"]["virtualbox"]
    node.vm.hostname = name
    node.vm.network "private_network", ip: machine["address"]
    node.vm.provider "virtualbox" do |provider|
      provider.name = "airflow-lab-#{name}"
      provider.memory = memory(machine)
      provider.cpus = 2
      provider.linked_clone = true
    end
  end

  # VirtualBox gives a shared folder a single owner. For the task logs it is Airflow's user, whose UID is the same on
  # every machine.
  def synced_folder(access) = { mount_options: access == "ro" ? ["ro"] : %w[uid=50000 gid=50000] }

  def check(create:)
    command("VBoxManage", "--version")
    super
  rescue Errno::ENOENT
    raise Lab::Invalid, "no VirtualBox: the command VBoxManage is not installed. Install it, or choose another provider (PROVIDER=docker)."
  end

  private

  def running
    up = command("VBoxManage", "list", "runningvms").scan(/\{(.+?)\}/).flatten
    created.select { |name| up.include?(identity(name)) }
  end
end
