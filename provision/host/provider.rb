# What `vagrant up` does with every provider: checks and preparations before the first machine, and a summary at the
# end. A subclass defines the machines of its provider and checks what only that provider needs.

require "English"
require "net/http"
require "open3"
require "shellwords"
require "socket"

require_relative "lab"

class Provider
  HEALTHY_WITHIN = 240 # seconds

  def initialize(lab)
    @lab = lab
    @named = @lab.machines.keys
  end

  # Raises Lab::Invalid if the host cannot run the lab. Changes nothing.
  def check(create:)
    check_readable
    check_own_dags
    @lab.check_existing(created)
    check_room if create
  end

  # Makes what the machines need on the host. Runs before the first machine.
  def make = nil

  # Removes it after the last machine.
  def remove = nil

  # Removes what only running machines need, after the last one has been halted.
  def halted = nil

  # Returns where the host reaches a service: at the address of its machine, or the one that several load balancers share.
  def reach(service) = "#{@lab.shared?(service) ? @lab.data['address'] : @lab.machines[@lab.listening(service)]['address']}:#{@lab.data['ports'][service]}"

  # Returns how many seconds a machine has to shut down: 0 with --force. Vagrant's Docker provider ignores --force, and
  # vagrant-libvirt 0.11 asks the machine to shut down in spite of it.
  def stop_timeout(argv) = argv.intersect?(%w[-f --force]) ? 0 : 60 * @lab.data["time_factor"]

  # Checks and prepares the host for the machines that the command names, or for all. Runs once per command: Vagrant may
  # load a Vagrantfile several times.
  def around(argv)
    return if $airflow_lab_around || argv.intersect?(%w[-h --help])

    $airflow_lab_around = true
    verb = argv.find { |word| !word.start_with?("-") }
    @named &= argv if argv.intersect?(@named)
    check_provider(verb == "destroy" ? @named : @lab.machines.keys) if %w[up provision reload destroy].include?(verb)
    case verb
    when "up" then prepare(create: true)
    when "provision", "reload" then prepare(create: false)
    when "halt" then at_exit { halted }
    when "destroy" then at_exit { remove }
    end
  end

  private

  def say(text)
    puts "==> lab: #{text}"
    $stdout.flush
  end

  # Returns how a user joins the group of a daemon: the first of `names` that exists on the host.
  def joining(*names)
    return "join its group (`users.users.<name>.extraGroups` in NixOS's configuration; nix/host.nix sets up the daemons)" if File.exist?("/etc/NIXOS")

    name = names.find { |group| File.read("/etc/group").match?(/^#{group}:/) } || names.first
    "join its group (`sudo usermod -aG #{name} $USER`, then log in again)"
  end

  # MiB. A virtual machine runs its own kernel and does not share pages with the others.
  def memory(machine) = machine["memory_mb"] + @lab.data["virtual_memory_mb"]

  def prepare(create:)
    check(create:)
    make if create
    @lab.save
    at_exit { closing if $ERROR_INFO.nil? || ($ERROR_INFO.is_a?(SystemExit) && $ERROR_INFO.success?) }
  end

  def created = @lab.machines.keys.select { |name| File.exist?(identity_file(name)) }

  # Vagrant manages a machine with the provider that created it, but the Vagrantfile defines it for one provider only.
  def check_provider(names)
    made = Dir.glob("*/*/id", base: File.join(@lab.root, ".vagrant/machines")).map { |path| path.split("/").first(2) }.sort
    others = made.select { |name, provider| provider != @lab.data["provider"] && names.include?(name) }
    return if others.empty?

    provider = others.first.last
    names = others.filter_map { |name, theirs| name if theirs == provider }.join(" ")
    raise Lab::Invalid, "#{@lab.place('provider')}: #{@lab.data['provider']} is not allowed while machines of #{provider} exist: #{names}. " \
                        "Call `PROVIDER=#{provider} vagrant destroy -f #{names}` first, or keep them with PROVIDER=#{provider}"
  end

  # Returns the provider's identifier of a machine.
  def identity(name) = File.read(identity_file(name))

  def identity_file(name) = File.join(@lab.root, ".vagrant/machines/#{name}/#{@lab.data['provider']}/id")

  # Runs a command of the provider and returns its output.
  def command(*words, input: "")
    out, err, status = Open3.capture3(*words, stdin_data: input)
    raise Lab::Invalid, "#{words.first(3).join(' ')} failed: #{err.strip}" unless status.success?

    out
  end

  def check_readable
    closed = %w[dags lab provision].filter_map { |folder| closed(File.join(@lab.root, folder)) }.first
    raise Lab::Invalid, "Airflow cannot read #{closed}: call `chmod -R o+rX dags lab provision`" if closed
  end

  # Returns the first path in a folder that is not readable for all users, with its mode. The machines share the files
  # with their modes, and Airflow's user there does not own them.
  def closed(folder)
    paths = [folder, *Dir.glob("**/*", base: folder).map { |path| File.join(folder, path) }]
    found = paths.find { |path| File.exist?(path) && !open?(File.stat(path)) && !path.include?("__pycache__") }
    found && format("%s (mode %04o)", found, File.stat(found).mode & 0o7777)
  end

  def open?(stat) = stat.mode.allbits?(stat.directory? ? 0o005 : 0o004)

  def check_own_dags
    own = @lab.own_dags
    complaint = own && complaint_of_folder(own)
    raise Lab::Invalid, "#{@lab.place('dags')}: #{own} is not allowed: #{complaint}. DAGS=#{Lab::NO_DAGS} chooses no folder" if complaint
    return if own == @lab.own_dags_before || created.empty?

    # A Docker container has the folders that it was created with. The rule is the same for all providers.
    own, before = [own, @lab.own_dags_before].map { |folder| folder || Lab::NO_DAGS }
    raise Lab::Invalid, "#{@lab.place('dags')}: #{own} is not allowed while machines exist that were created with DAGS=#{before}: " \
                        "#{created.join(', ')}. Call `vagrant destroy -f` first, or keep them with DAGS=#{Shellwords.escape(before)}"
  end

  # Returns why a folder cannot be the user's own folder of DAGs, and what is allowed; nil if it can.
  def complaint_of_folder(own)
    return "it #{File.exist?(own) ? 'is not a folder' : 'does not exist'}; allowed: a folder" unless File.directory?(own)
    return "it has a colon; allowed: a path without one, because Docker separates paths with colons" if own.include?(":")

    dags, folder = [File.join(@lab.root, "dags"), own].map { |path| File.join(File.realpath(path), "") }
    return "it is dags/ of this checkout, is inside it, or contains it; allowed: a separate folder" if dags.start_with?(folder) || folder.start_with?(dags)

    closed = closed(own)
    "Airflow cannot read #{closed}; call `chmod -R o+rX #{Shellwords.escape(own)}`" if closed
  end

  def check_room
    missing = @named - running
    need = missing.sum { |name| memory(@lab.machines[name]) }
    have = File.exist?("/proc/meminfo") ? File.read("/proc/meminfo")[/MemAvailable:\s+(\d+)/, 1].to_i / 1024 : need
    if have < need
      raise Lab::Invalid, "too little memory: #{missing.join(', ')} need #{need} MiB (memory_mb in config/lab.json), " \
                          "#{have} MiB are available. Stop other programs, or bring up fewer workers (WORKERS=1)."
    end
    return if (@named - created).empty?

    free = command("df", "-Pk", disk).lines.last.split[3].to_i / 1024
    return if free >= @lab.data["disk_mb"]

    raise Lab::Invalid, "too little disk: a new lab needs #{@lab.data['disk_mb']} MiB (disk_mb in config/lab.json), " \
                        "#{free} MiB are free in #{disk}."
  end

  # Returns the folder in which the provider keeps the machines' disks.
  def disk = @lab.root

  def check_interfaces(own)
    lab = IPAddr.new(@lab.data["network"])
    Socket.getifaddrs.each do |interface|
      next unless interface.addr&.ipv4? && interface.name != own && lab.include?(IPAddr.new(interface.addr.ip_address))

      raise Lab::Invalid, "the network #{@lab.data['network']} is in use on this host: #{interface.name} has #{interface.addr.ip_address}. " \
                          "Choose another network, and addresses in it, in config/lab.json."
    end
  end

  def closing
    missing = @lab.machines.keys - running
    if missing.any?
      say "the move to #{@lab.data['broker']} continues when all machines are up; until then both brokers run" if @lab.moving?
      say "#{missing.join(', ')} not running. Next: vagrant up #{missing.join(' ')}"
      return
    end
    unless healthy?
      warn "airflow-lab: Airflow is not healthy after #{healthy_within} s. Next: bin/lab status, then bin/lab doctor"
      exit 1
    end
    follow_move if @lab.moving?
    puts welcome
  end

  # The machines finish the move on their own. This shows the user what they wait for.
  def follow_move
    broker = @lab.with_role("queue").keys.first
    follow = "sudo PYTHONPATH=/vagrant /opt/airflow/venv/bin/python -m provision.roles.queue.drain follow"
    @lab.moved if system("vagrant", "ssh", broker, "--command", follow)
  end

  def healthy_within = HEALTHY_WITHIN * @lab.data["time_factor"]

  # Returns whether the api-servers report, through nginx, that every component is healthy. Waits for it, and prints which
  # components it waits for.
  def healthy?
    uri = URI("http://#{reach('load_balancer')}/api/v2/monitor/health")
    (0..healthy_within).step(2) do |seconds|
      unhealthy = begin
        JSON.parse(get(uri)).reject { |_, part| part["status"] == "healthy" }.keys
      rescue SystemCallError, IOError, Timeout::Error, JSON::ParserError
        ["api-server"]
      end
      unhealthy = ["admin"] if unhealthy.empty? && !admin?(uri)
      return true if unhealthy.empty?

      say "waiting for Airflow's #{unhealthy.join(', ')} (#{seconds} s)" if (seconds % 10).zero?
      sleep(unhealthy == ["admin"] ? 10 : 2) # Airflow accepts five logins in 40 s
    end
    false
  end

  # Returns whether the admin can log in. With several databases no machine waits for it: there may be no primary yet.
  def admin?(uri)
    return true unless @lab.several?("database")

    login = { username: "admin", password: JSON.parse(File.read(@lab.state("secrets.json")))["airflow_admin_password"] }
    Net::HTTP.start(uri.host, uri.port, nil) do |http|
      http.post("/auth/token", JSON.generate(login), "Content-Type" => "application/json").is_a?(Net::HTTPSuccess)
    end
  rescue SystemCallError, IOError, Timeout::Error
    false
  end

  # Bypasses the host's proxy: a proxy cannot reach the lab.
  def get(uri) = Net::HTTP.start(uri.host, uri.port, nil) { |http| http.get(uri.path).body }

  def welcome
    password = $stdout.tty? ? JSON.parse(File.read(@lab.state("secrets.json"))) : Hash.new("in .lab/secrets.json")
    rabbitmq = @lab.data["broker"] == "rabbitmq"
    management = "\n  RabbitMQ  http://#{reach('rabbitmq_management')}   airflow / #{password['rabbitmq_password']}" if rabbitmq
    <<~TEXT

      The lab is up: #{@lab.machines.keys.join(', ')}; broker: #{@lab.data['broker']}

        Airflow   http://#{reach('load_balancer')}   admin / #{password['airflow_admin_password']}
        Flower    http://#{reach('flower')}   admin / #{password['flower_password']}#{management}

      Next: bin/lab drill worker-crash   crashes a machine while tasks run, and shows what happened to them
            make test                    tests the lab
    TEXT
  end
end
