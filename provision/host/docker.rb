# What `vagrant up` on Docker needs before the first machine: an engine, a network, free ports, memory and
# disk, and the image; and what it says when it has ended.

require "digest"
require "English"
require "net/http"
require "open3"
require "socket"

require_relative "lab"

class Docker
  BASE = "airflow-lab/debian:trixie".freeze
  PULLED = "debian:trixie-slim".freeze # the base image where `make up` has not made one
  CHECKOUT = "airflow-lab.checkout".freeze
  MACHINE = "airflow-lab.machine".freeze
  RECIPE = "provision/host/image.sh".freeze
  INPUTS = %w[provision/**/* lab/topology.py config/requirements.lock].freeze
  HEALTHY_WITHIN = 240 # seconds

  def initialize(lab)
    @lab = lab
  end

  # The image is named after what it is made from.
  def image
    @image ||= begin
      files = Dir[*INPUTS, base: @lab.root].reject { |path| path.start_with?("provision/host/") && path != RECIPE }
      files = files.map { |path| File.join(@lab.root, path) }.select { |path| File.file?(path) && !path.include?("__pycache__") }
      "airflow-lab/machine:#{Digest::SHA256.hexdigest(files.sort.map { |path| Digest::SHA256.file(path).hexdigest }.join)[0, 12]}"
    end
  end

  def network = "airflow-lab-#{@lab.data['network'].tr('/', '_')}"

  # systemd as PID 1 without --privileged: that fails where the host itself lacks a capability.
  def create_args(name, machine)
    %W[
      --hostname #{name} --network #{network} --ip #{machine['address']}
      --label #{CHECKOUT}=#{@lab.root} --label #{MACHINE}=#{name}
      --stop-signal SIGRTMIN+3 --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined --cgroupns=private
      --tmpfs /run --tmpfs /run/lock --tmpfs /tmp:exec --publish 127.0.0.1::22
    ] + forwarded(name).flat_map { |service, port| ["--publish", "127.0.0.1:#{port}:#{@lab.data['ports'][service]}"] }
  end

  # Seconds that a machine has to shut down. Vagrant's docker provider knows no --force of its own: with it, none.
  def stop_timeout(argv) = argv.intersect?(%w[-f --force]) ? 0 : 60

  # The services that the host reaches at a port of its own, where this machine is the first to have them.
  def forwarded(name)
    @lab.data["forwarded_ports"].select do |service, _|
      @lab.with_role(service == "rabbitmq_management" ? "queue" : service).keys.first == name
    end
  end

  # Runs once a command: Vagrant may load a Vagrantfile more than once.
  def around(argv)
    return if $airflow_lab_around || argv.intersect?(%w[-h --help])

    $airflow_lab_around = true
    case argv.find { |word| !word.start_with?("-") }
    when "up" then prepare(create: true)
    when "provision", "reload" then prepare(create: false)
    when "destroy" then at_exit { remove_network }
    end
  end

  private

  def say(text)
    puts "==> lab: #{text}"
    $stdout.flush
  end

  def docker(*words, input: "")
    out, err, status = Open3.capture3("docker", *words, stdin_data: input)
    raise Lab::Invalid, "docker #{words.first(2).join(' ')} failed: #{err.strip}" unless status.success?

    out
  end

  def prepare(create:)
    check_engine
    check_readable
    if create
      check_others
      check_ports
      check_room
      make_network
      make_image unless (@lab.machines.keys - created).empty?
    end
    @lab.save
    at_exit { closing if $ERROR_INFO.nil? || ($ERROR_INFO.is_a?(SystemExit) && $ERROR_INFO.success?) }
  end

  def check_engine
    docker("version", "--format", "{{.Server.Version}}")
  rescue Errno::ENOENT
    raise Lab::Invalid, "no Docker: the command docker is not there. `make up` installs and starts it."
  rescue Lab::Invalid => e
    raise Lab::Invalid, "no Docker engine: #{e.message}\nStart it (`sudo systemctl start docker`, or `make up`, which also " \
                        "does so without systemd), or join its group (`sudo usermod -aG docker $USER`, then log in anew)."
  end

  # A file that only its owner reads is bound into the machines as it is, and Airflow's user there is another.
  def check_readable
    closed = Dir[File.join(@lab.root, "{dags,lab,provision}{,/**/*}")].reject { |path| File.world_readable?(path) || path.include?("__pycache__") }
    return if closed.empty?

    mode = format("%04o", File.stat(closed.first).mode & 0o7777)
    raise Lab::Invalid, "Airflow could not read #{closed.first} (mode #{mode}): `chmod -R o+rX dags lab provision`"
  end

  def created
    @lab.machines.keys.select { |name| File.exist?(File.join(@lab.root, ".vagrant/machines/#{name}/docker/id")) }
  end

  def running
    docker("ps", "--filter", "label=#{CHECKOUT}=#{@lab.root}", "--format", "{{.Label \"#{MACHINE}\"}}").split
  end

  # Another checkout's running machines hold our addresses; stopped ones do not.
  def check_others
    others = docker("ps", "--filter", "network=#{network}", "--format", "{{.Label \"#{CHECKOUT}\"}}").split("\n").uniq - [@lab.root]
    return if others.empty?

    raise Lab::Invalid, "the network #{@lab.data['network']} is in use: machines of #{others.join(', ')} are running on it. " \
                        "`vagrant halt` there, or give this lab a network of its own in config/lab.json."
  end

  def check_ports
    return if running.include?(@lab.with_role("load_balancer").keys.first)

    @lab.data["forwarded_ports"].each do |service, port|
      TCPServer.new("127.0.0.1", port).close
    rescue Errno::EADDRINUSE, Errno::EACCES => e
      raise Lab::Invalid, "config/lab.json: forwarded_ports.#{service}: port #{port} of 127.0.0.1 cannot be had (#{e.message}). " \
                          "Stop what listens there (`ss -ltnp 'sport = :#{port}'`), or choose another port."
    end
  end

  def check_room
    missing = @lab.machines.except(*running)
    need = missing.values.sum { |machine| machine["memory_mb"] }
    have = File.exist?("/proc/meminfo") ? File.read("/proc/meminfo")[/MemAvailable:\s+(\d+)/, 1].to_i / 1024 : need
    if have < need
      raise Lab::Invalid, "too little memory: #{missing.keys.join(', ')} need #{need} MiB (memory_mb in config/lab.json), " \
                          "#{have} MiB are available. Stop other programs, or bring up fewer workers (WORKERS=1)."
    end
    return if (@lab.machines.keys - created).empty?

    folder = docker("info", "--format", "{{.DockerRootDir}}").strip
    free = `df -Pk #{File.directory?(folder) ? folder : @lab.root}`.lines.last.split[3].to_i / 1024
    return if free >= @lab.data["disk_mb"]

    raise Lab::Invalid, "too little disk: a new lab needs #{@lab.data['disk_mb']} MiB (disk_mb in config/lab.json), " \
                        "#{free} MiB are free in #{folder}. `docker system df` shows what takes the room."
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
    check_interfaces(lab)
    docker("network", "create", "--subnet", @lab.data["network"], "--opt", "com.docker.network.bridge.name=#{bridge}", network)
  end

  # A fixed name, so that Docker takes over a bridge that an engine which is gone has left behind.
  def bridge = "lab-#{@lab.data['network'][/\d+\.\d+\.\d+/]}"

  def check_interfaces(lab)
    Socket.getifaddrs.each do |interface|
      next unless interface.addr&.ipv4? && interface.name != bridge && lab.include?(IPAddr.new(interface.addr.ip_address))

      raise Lab::Invalid, "the network #{@lab.data['network']} is in use on this host: #{interface.name} has #{interface.addr.ip_address}. " \
                          "Choose another network, and addresses in it, in config/lab.json."
    end
  end

  def overlap?(one, other) = one.include?(other) || other.include?(one)

  def remove_network
    remaining = docker("ps", "--all", "--quiet", "--filter", "network=#{network}").split
    docker("network", "rm", network) if remaining.empty? && docker("network", "ls", "--quiet", "--filter", "name=^#{network}$") != ""
  rescue Lab::Invalid, Errno::ENOENT => e
    warn "airflow-lab: #{e.message}"
  end

  def make_image
    return if image?(image)

    base = image?(BASE) ? BASE : pull
    say "machine image: installing the packages of every role, once (log: .lab/image.log)"
    @lab.write(@lab.state("image.json"), @lab.document(nil))
    name = "airflow-lab-image-#{$PROCESS_ID}"
    volumes = %w[provision lab config].to_h { |folder| [File.join(@lab.root, folder), "/vagrant/#{folder}"] }
    volumes[@lab.state("image.json")] = "/root/machine.json"
    volumes[Vagrant.source_root.join("keys/vagrant.pub").to_s] = "/root/vagrant.pub"
    mounts = volumes.flat_map { |here, there| ["--volume", "#{here}:#{there}:ro"] }
    environment = ENV.slice(*Lab::ENVIRONMENT).keys.flat_map { |key| ["--env", key] }
    follow("docker", "run", "--name", name, *mounts, *environment, base, "sh", "/vagrant/#{RECIPE}")
    docker("commit", "--change", 'CMD ["/sbin/init", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]', name, image)
    say "machine image: ready"
  ensure
    system("docker", "rm", "--force", name, out: File::NULL, err: File::NULL) if name
  end

  def image?(name) = docker("image", "ls", "--quiet", name) != ""

  def pull
    say "machine image: pulling #{PULLED}"
    docker("pull", PULLED)
    PULLED
  rescue Lab::Invalid => e
    raise Lab::Invalid, "no base image: #{e.message}\n`make up` makes one from Debian's own archive."
  end

  # Runs a long command: its output goes to a file, what it is doing to the user.
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

  def closing
    missing = @lab.machines.keys - running
    if missing.any?
      say "the move to #{@lab.data['broker']} goes on when all machines are up; until then both brokers run" if @lab.moving?
      say "#{missing.join(', ')} not running. Next: vagrant up #{missing.join(' ')}"
      return
    end
    unless healthy?
      warn "airflow-lab: Airflow is not healthy after #{HEALTHY_WITHIN} s. Next: vagrant ssh master1 -c 'systemctl --failed; journalctl -e'"
      exit 1
    end
    follow_move if @lab.moving?
    puts welcome
  end

  # The machines move by themselves; here the user sees what they wait for.
  def follow_move
    broker = @lab.with_role("queue").keys.first
    follow = "sudo PYTHONPATH=/vagrant /opt/airflow/venv/bin/python -m provision.broker_switch follow"
    @lab.moved if system("vagrant", "ssh", broker, "--command", follow)
  end

  # Whether the api-servers, behind nginx, call every component healthy; waits, and says what for.
  def healthy?
    uri = URI("http://127.0.0.1:#{@lab.data['forwarded_ports']['load_balancer']}/api/v2/monitor/health")
    (0..HEALTHY_WITHIN).step(2) do |seconds|
      sick = begin
        JSON.parse(Net::HTTP.get(uri)).reject { |_, part| part["status"] == "healthy" }.keys
      rescue SystemCallError, IOError, Timeout::Error, JSON::ParserError
        ["api-server"]
      end
      return true if sick.empty?

      say "waiting for Airflow's #{sick.join(', ')} (#{seconds} s)" if (seconds % 10).zero?
      sleep 2
    end
    false
  end

  def welcome
    password = $stdout.tty? ? JSON.parse(File.read(@lab.state("secrets.json"))) : Hash.new("in .lab/secrets.json")
    ports = @lab.data["forwarded_ports"]
    management = "\n  RabbitMQ  http://localhost:#{ports['rabbitmq_management']}   airflow / #{password['rabbitmq_password']}"
    <<~TEXT

      The lab is up: #{@lab.machines.keys.join(', ')}; broker: #{@lab.data['broker']}

        Airflow   http://localhost:#{ports['load_balancer']}   admin / #{password['airflow_admin_password']}
        Flower    http://localhost:#{ports['flower']}   admin / #{password['flower_password']}#{management if @lab.data['broker'] == 'rabbitmq'}

      Next: bin/lab drill worker-crash   cuts a machine's power under work, and shows what became of it
            make test                    proves the whole lab
    TEXT
  end
end
