# Runs the machines as Docker containers with systemd. Needs a Docker engine, a network, free ports and an image.

require "digest"

require_relative "provider"

class DockerProvider < Provider
  BASE = "airflow-lab/debian:trixie".freeze
  PULLED = "debian:trixie-slim".freeze # the base image on a host without mmdebstrap
  CHECKOUT = "airflow-lab.checkout".freeze
  MACHINE = "airflow-lab.machine".freeze
  FORWARD = "airflow-lab.forward".freeze # its value is a hash of what the container forwards
  # The image contains what the roles install, and nothing that they configure.
  INPUTS = %w[
    provision/images/image.sh provision/images/guest.sh provision/images/vagrant.pub provision/* provision/roles/*/deploy.py
    provision/roles/base/airflow-lab.preset provision/roles/airflow/sysusers.conf.j2 lab/roles.* lab/topology.py config/requirements.lock
  ].freeze

  # The tag is a hash of the inputs.
  def image
    @image ||= begin
      files = Dir[*INPUTS, base: @lab.root].map { |path| File.join(@lab.root, path) }.select { |path| File.file?(path) }
      "airflow-lab/machine:#{Digest::SHA256.hexdigest(files.sort.map { |path| Digest::SHA256.file(path).hexdigest }.join)[0, 12]}"
    end
  end

  def network = "airflow-lab-#{@lab.data['network'].tr('/', '_')}"

  # systemd runs as PID 1 without --privileged, which fails on a host that lacks a capability itself.
  def create_args(name, machine)
    %W[
      --pull never --hostname #{name} --network #{network} --ip #{machine['address']}
      --label #{CHECKOUT}=#{@lab.root} --label #{MACHINE}=#{name}
      --stop-signal SIGRTMIN+3 --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined --cgroupns=private
      --tmpfs /run --tmpfs /run/lock --tmpfs /tmp:exec --publish 127.0.0.1::22
    ] + forwarded(name).flat_map { |service, port| ["--publish", "127.0.0.1:#{port}:#{@lab.data['ports'][service]}"] }
  end

  # Returns the forwarded port of each service on this machine that has one: none if a container forwards them.
  def forwarded(name)
    return {} if forward?

    @lab.data["forwarded_ports"].select do |service, _|
      @lab.listening(service) == name
    end
  end

  def machine(node, name, machine, argv)
    # The ports are in create_args: Vagrant would count the ports of another checkout's stopped machines as used.
    node.vm.network "forwarded_port", id: "ssh", guest: 22, host: 2222, disabled: true
    node.vm.provider "docker" do |provider|
      provider.image = image
      provider.has_ssh = true
      provider.create_args = create_args(name, machine)
      provider.stop_timeout = stop_timeout(argv)
    end
  end

  def synced_folder(access) = access == "ro" ? { docker_consistency: "ro" } : {}

  # The host can reach a container's address only on Linux; a forwarded port works everywhere.
  def reach(service) = "localhost:#{@lab.data['forwarded_ports'][service]}"

  def check(create:)
    check_engine
    super
    return unless create

    check_others
    check_ports
  end

  def make
    make_network
    forward = forward? && forwards.empty?
    make_image if forward || (@named - created).any?
    make_forward if forward?
  end

  def halted
    remove_forward if running.empty?
  rescue Lab::Invalid, Errno::ENOENT => e
    warn "airflow-lab: #{e.message}"
  end

  def remove
    remove_forward if created.empty?
    remaining = docker("ps", "--all", "--quiet", "--filter", "network=#{network}").split
    docker("network", "rm", network) if remaining.empty? && docker("network", "ls", "--quiet", "--filter", "name=^#{network}$") != ""
  rescue Lab::Invalid, Errno::ENOENT => e
    warn "airflow-lab: #{e.message}"
  end

  private

  def docker(*words, input: "") = command("docker", *words, input:)

  def memory(machine) = machine["memory_mb"]

  def check_engine
    docker("version", "--format", "{{.Server.Version}}")
  rescue Errno::ENOENT
    raise Lab::Invalid, "no Docker: the command docker is not installed. `make up` installs and starts it."
  rescue Lab::Invalid => e
    raise Lab::Invalid, "no Docker engine: #{e.message}\nStart it (`sudo systemctl start docker`; without systemd: " \
                        "`make up`), or #{joining('docker')}."
  end

  def running = containers

  # `docker system prune` removes stopped machines and their image, but leaves Vagrant's files of these machines.
  def created = super & containers("--all")

  def containers(*words)
    docker("ps", *words, "--filter", "label=#{CHECKOUT}=#{@lab.root}", "--format", "{{.Label \"#{MACHINE}\"}}").split
  end

  # Running machines of another checkout occupy our addresses; stopped ones do not.
  def check_others
    others = docker("ps", "--filter", "network=#{network}", "--format", "{{.Label \"#{CHECKOUT}\"}}").split("\n").uniq - [@lab.root]
    return if others.empty?

    raise Lab::Invalid, "the network #{@lab.data['network']} is in use: machines of #{others.join(', ')} are running on it. " \
                        "Call `vagrant halt` there, or choose another network for this lab in config/lab.json."
  end

  def check_ports
    ports = (@named - running).flat_map { |name| forwarded(name).to_a }
    ports = @lab.data["forwarded_ports"] if forward? && forwards.empty?
    ports.each do |service, port|
      TCPServer.new("127.0.0.1", port).close
    rescue Errno::EADDRINUSE, Errno::EACCES => e
      raise Lab::Invalid, "config/lab.json: forwarded_ports.#{service}: port #{port} of 127.0.0.1 is unavailable (#{e.message}). " \
                          "Stop what listens there (`ss -ltnp 'sport = :#{port}'`), or choose another port."
    end
  end

  def disk
    folder = docker("info", "--format", "{{.DockerRootDir}}").strip
    File.directory?(folder) ? folder : super
  end

  def make_network
    lab = IPAddr.new(@lab.data["network"])
    names = docker("network", "ls", "--format", "{{.Name}}").split
    subnets = JSON.parse(docker("network", "inspect", *names)).to_h { |n| [n["Name"], n.dig("IPAM", "Config").to_a.map { |c| c["Subnet"] }] }
    return if subnets.key?(network)

    subnets.each do |name, list|
      next unless list.compact.any? { |subnet| overlap?(IPAddr.new(subnet), lab) }

      raise Lab::Invalid, "the network #{@lab.data['network']} is in use by Docker's network #{name}. " \
                          "`docker network rm #{name}`, or choose another network in config/lab.json."
    end
    check_interfaces(bridge)
    check_bridge
    docker("network", "create", "--subnet", @lab.data["network"], "--opt", "com.docker.network.bridge.name=#{bridge}", network)
  end

  # The network is new to this engine, but its bridge may have interfaces: of another engine's machines, or of machines
  # whose engine was killed. They answer for the lab's addresses, also if their processes are gone.
  def check_bridge
    taken = Dir.glob("/sys/class/net/#{bridge}/brif/*").map { |path| File.basename(path) }
    return if taken.empty?

    raise Lab::Invalid, "the network #{@lab.data['network']} is in use on this host: the bridge #{bridge} has interfaces that this Docker " \
                        "engine does not know: #{taken.join(', ')}. If no other engine runs a lab, remove them with " \
                        "`sudo ip link delete #{bridge}`, or choose another network in config/lab.json."
  end

  # A port that Docker publishes leads to one machine. Whether a container forwards the ports instead: to the address that
  # several load balancers share, and to any machine that answers.
  def forward? = @lab.several?("load_balancer")

  def make_forward
    config = forward_config
    digest = Digest::SHA256.hexdigest(config)[0, 12]
    return if forwards == [digest]

    remove_forward
    @lab.write_text(@lab.state("forward.cfg"), config, mode: 0o644)
    ports = @lab.data["forwarded_ports"].flat_map { |service, port| ["--publish", "127.0.0.1:#{port}:#{@lab.data['ports'][service]}"] }
    docker("run", "--detach", "--pull", "never", "--restart", "unless-stopped", "--network", network, "--ip", free_address, *ports,
           "--label", "#{CHECKOUT}=#{@lab.root}", "--label", "#{FORWARD}=#{digest}",
           "--volume", "#{@lab.state('forward.cfg')}:/etc/haproxy/forward.cfg:ro", image, "haproxy", "-db", "-f", "/etc/haproxy/forward.cfg")
  end

  # Returns the last address of the network that is free: Docker would give away the first, which may be a machine's.
  def free_address
    taken = @lab.data["machines"].map { |_, machine| machine["address"] } << @lab.data["address"]
    last = IPAddr.new(@lab.data["network"]).to_range.last.to_i
    (1..).lazy.map { |number| IPAddr.new(last - number, Socket::AF_INET).to_s }.find { |address| !taken.include?(address) }
  end

  def remove_forward
    ids = docker("ps", "--all", "--quiet", "--filter", "label=#{FORWARD}", "--filter", "label=#{CHECKOUT}=#{@lab.root}").split
    docker("rm", "--force", *ids) if ids.any?
  end

  # Returns the hash of what a running container forwards, in a list that is empty if there is none.
  def forwards
    docker("ps", "--filter", "label=#{FORWARD}", "--filter", "label=#{CHECKOUT}=#{@lab.root}", "--format", "{{.Label \"#{FORWARD}\"}}").split
  end

  # HAProxy tries again while the address moves to another machine.
  def forward_config
    listens = @lab.data["forwarded_ports"].keys.map do |service|
      port = @lab.data["ports"][service]
      servers = @lab.shared?(service) ? { "address" => @lab.data["address"] } : @lab.all_listening(service).transform_values { |machine| machine["address"] }
      lines = servers.map { |name, address| "  server #{name} #{address}:#{port}#{' check' if servers.size > 1}" }
      "listen #{service}\n  bind :#{port}\n#{lines.join("\n")}\n"
    end
    "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1h\n  timeout server 1h\n  retries 5\n  option redispatch\n\n#{listens.join("\n")}"
  end

  # The name is fixed, so that Docker reuses the bridge that an earlier engine left behind.
  def bridge = "lab-#{@lab.data['network'][/\d+\.\d+\.\d+/]}"

  def overlap?(one, other) = one.include?(other) || other.include?(one)

  def make_image
    return if image?(image)

    from = base
    say "machine image: installing the packages of every role, once (log: .lab/image.log)"
    @lab.write(@lab.state("image.json"), @lab.document(nil))
    name = "airflow-lab-image-#{$PROCESS_ID}"
    volumes = %w[provision lab config].to_h { |folder| [File.join(@lab.root, folder), "/vagrant/#{folder}"] }
    # Not with --env: the image, and every machine, would keep a password of the host's proxy.
    @lab.write_text(@lab.state("image.env"), ENV.slice(*Lab::ENVIRONMENT).map { |key, value| "export #{key}=#{Shellwords.escape(value)}\n" }.join)
    volumes[@lab.state("image.json")] = "/root/machine.json"
    volumes[@lab.state("image.env")] = "/root/environment"
    mounts = volumes.flat_map { |here, there| ["--volume", "#{here}:#{there}:ro"] }
    follow("docker", "run", "--name", name, *mounts, from, "sh", "/vagrant/#{INPUTS.first}")
    docker("commit", "--change", 'CMD ["/sbin/init", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]', name, image)
    say "machine image: ready"
  ensure
    system("docker", "rm", "--force", name, out: File::NULL, err: File::NULL) if name
  end

  def image?(name) = docker("image", "ls", "--quiet", name) != ""

  # Debian's archive is tried before a registry: fewer networks block it.
  def base
    return BASE if image?(BASE)
    return pull unless system("command -v mmdebstrap >/dev/null")

    say "machine image: making the base image from Debian's archive (about half a minute)"
    command("sh", File.join(@lab.root, "provision/images/base-image.sh"))
    BASE
  rescue Lab::Invalid => e
    raise Lab::Invalid, "no base image: #{e.message}\n`make up` makes one from Debian's own archive, as root."
  end

  def pull
    say "machine image: pulling #{PULLED}"
    docker("pull", PULLED)
    PULLED
  end

  # Runs a long command: writes its output to a file, and shows the user its current step.
  def follow(*command)
    log = File.open(@lab.state("image.log"), "w").tap { |file| file.sync = true }
    start = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    Open3.popen2e(*command) do |_, output, thread|
      output.each_line do |line|
        log.puts(line)
        step = line[/Starting operation: (.+?)\s*$/, 1] || line[/^step: (.+)$/, 1]
        say format("  %3d s  %s", Process.clock_gettime(Process::CLOCK_MONOTONIC) - start, step.gsub(/\e\[[0-9;]*m/, "")) if step
      end
      next if thread.value.success?

      raise Lab::Invalid, "the machine image could not be made; the end of #{log.path}:\n#{File.readlines(log.path).last(15).join}"
    ensure
      log.close
    end
  end
end
