# Machines in VirtualBox, from a public box, with the network that VirtualBox allows without any setting.

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

  # VirtualBox gives a folder one owner: that of the task logs is Airflow's user, by the number it has in every machine.
  def synced_folder(access) = { mount_options: access == "ro" ? ["ro"] : %w[uid=50000 gid=50000] }

  def check(create:)
    command("VBoxManage", "--version")
    super
  rescue Errno::ENOENT
    raise Lab::Invalid, "no VirtualBox: the command VBoxManage is not there. Install it, or choose another provider (PROVIDER=docker)."
  end

  private

  def running
    up = command("VBoxManage", "list", "runningvms").scan(/\{(.+?)\}/).flatten
    created.select { |name| up.include?(identity(name)) }
  end
end
