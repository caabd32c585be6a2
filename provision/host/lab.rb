# Resolves the lab: reads config/lab.json and the choices of this checkout, and validates them before any machine is
# touched. Writes .lab/lab.json, which all other code reads, and a document for each machine. Uses only the standard
# library: the host may have nothing but Vagrant.

require "fileutils"
require "ipaddr"
require "json"
require "securerandom"

class Lab
  # A mistake in the user's input. The message names the value, the place, what is allowed, and the fix.
  class Invalid < StandardError; end

  # Environment variables, and the key of lab.json that each overrides.
  CHOICES = {
    "LAYOUT" => "layout", "BROKER" => "broker", "PROVIDER" => "provider", "WORKERS" => "workers", "TIMINGS" => "timings",
    "TIME_FACTOR" => "time_factor", "REVISION" => "revision", "DAGS" => "dags"
  }.freeze
  NO_DAGS = "none".freeze # DAGS=none: an empty variable chooses nothing

  # The table of roles. lab/roles.py says what its keys mean.
  ROLES = JSON.parse(File.read(File.join(__dir__, "../../lab/roles.json"))).freeze
  CLUSTERED = ROLES.transform_values { |role| role.merge(role.fetch("clustered", {})) }.freeze # on several machines
  SECRETS = (ROLES.values + CLUSTERED.values).flat_map { |role| role["secrets"] }.uniq.freeze
  def self.ports(role) = role["ports"].is_a?(Hash) ? role["ports"].values.flatten : role["ports"]

  # Maps each port of lab.json to the role that listens on it, for both brokers: during a move both queue servers run.
  LISTENS = [ROLES, CLUSTERED].each_with_object({}) do |table, listens|
    table.each { |name, role| ports(role).each { |port| listens[port] = name } }
  end.freeze
  SSH = 22

  # Why a role is on one machine, or on three or more: a majority decides.
  MAJORITY = "one machine, or an odd number from three on: of two, neither can know whether the other or the network has failed".freeze

  # Set on hosts in a corporate network; the machines need them too.
  PROXIES = %w[http_proxy https_proxy HTTP_PROXY HTTPS_PROXY].freeze
  NO_PROXY = %w[no_proxy NO_PROXY].freeze
  ENVIRONMENT = (PROXIES + NO_PROXY + %w[PIP_INDEX_URL PIP_EXTRA_INDEX_URL UV_DEFAULT_INDEX UV_INDEX]).freeze
  CERTIFICATES = "/usr/local/share/ca-certificates/*.crt".freeze

  attr_reader :root, :data, :machines

  # `file`: the description, in the form of config/lab.json. `folder`: where its choices, secrets and documents are.
  def initialize(root, file: File.join(root, "config/lab.json"), folder: File.join(root, ".lab"))
    @root = root
    @file = file
    @folder = folder
    @data = choose(parse(file))
    check_schema(@data, JSON.parse(File.read(File.join(root, "config/lab.schema.json"))))
    arrange
    check_machines
    workers = @data["machines"].select { |_, machine| machine["roles"].include?("worker") }.keys
    check_workers(workers)
    check_created(workers)
    @machines = @data["machines"].reject { |name, _| workers.drop(@data["workers"]).include?(name) }
    check_roles
    check_ports
    check_timings
  end

  def state(*path) = File.join(@folder, *path)

  # The description with all choices made: machines in use only, timings in seconds. Everything else reads this.
  def resolved
    timings = @data["timing_profiles"][@data["timings"]].transform_values { |seconds| seconds * @data["time_factor"] }
    keys = %w[layout broker provider time_factor network ports forwarded_ports worker_concurrency parallelism revision]
    @data.slice(*keys).merge(
      "address" => several?("load_balancer") ? @data["address"] : "",
      "machines" => @machines,
      "hosts" => @data["machines"].transform_values { |machine| machine["address"] },
      "timings" => timings,
      "own_dags" => !own_dags.nil? # machines do not need to know where the folder is on the host
    )
  end

  # Returns the path of the user's own folder of DAGs, or nil.
  def own_dags = @data["dags"].empty? ? nil : File.absolute_path(@data["dags"], @root)

  # Returns the same as the last `vagrant up` or `vagrant provision` had it.
  def own_dags_before = File.size?(state("own-dags")) && File.read(state("own-dags"))

  # Returns where the user set a value.
  def place(path)
    return @chosen[path] if @chosen.key?(path)
    return "#{CHOICES.key(path)}, chosen earlier (#{state('choices.json').delete_prefix("#{@root}/")})" if @choices.key?(path)

    "#{file}: #{path.empty? ? 'the file' : path}"
  end

  # Returns a role as this lab has it, on one machine or on several.
  def role(name) = (several?(name) ? CLUSTERED : ROLES).fetch(name)

  def several?(role) = with_role(role).size > 1

  def with_role(role) = @machines.select { |_, machine| machine["roles"].include?(role) }

  # Whether several load balancers listen on a port of lab.json.
  def shared?(port) = LISTENS.fetch(port) == "load_balancer" && several?("load_balancer")

  # The machines that listen on a port of lab.json.
  def all_listening(port) = with_role(LISTENS.fetch(port))

  def listening(port) = all_listening(port).keys.first

  # Remembers the choices, creates missing secrets, and writes the resolved lab and the document of each machine.
  def save
    FileUtils.mkdir_p(state, mode: 0o700)
    broker = before["broker"]
    FileUtils.touch(state("moving")) if broker && broker != @data["broker"]
    write(state("choices.json"), @choices)
    write(state("lab.json"), resolved)
    write_text(state("own-dags"), own_dags.to_s)
    secrets = read(state("secrets.json"))
    SECRETS.each { |name| secrets[name] ||= secret(name) }
    write(state("secrets.json"), secrets)
    @machines.each do |name, machine|
      document = JSON.pretty_generate(document(name, machine["roles"], secrets))
      # One file to upload: it contains the document, and removes itself.
      script = "#!/bin/sh\nrm -f \"$0\"\nexec sh /vagrant/provision/bootstrap.sh <<'DOCUMENT'\n#{document}\nDOCUMENT\n"
      write_text(state("machines", "#{name}.sh"), script)
    end
  end

  # Sets the factor of all waits and timings, unless the user has chosen one, with TIME_FACTOR or in lab.json.
  def slow_down(factor)
    @data["time_factor"] = factor if @data["time_factor"] == 1 && !@choices.key?("time_factor")
  end

  # The input of provisioning: the lab, the machine's name (nil for the machine image), its secrets, and what the
  # host's network requires.
  def document(name, roles = [], secrets = {})
    {
      "machine" => name,
      "lab" => resolved,
      "secrets" => secrets.slice(*roles.flat_map { |role| role(role)["secrets"] }),
      "environment" => environment,
      "certificates" => Dir[CERTIFICATES].sort.to_h { |path| [File.basename(path), File.read(path)] }
    }
  end

  # Returns the variables of ENVIRONMENT that the host has. Adds each of the lab's addresses to no_proxy: not all programs
  # understand a network there.
  def environment
    given = ENV.slice(*ENVIRONMENT)
    return given unless given.keys.intersect?(PROXIES)

    own = @data["machines"].flat_map { |name, machine| [name, machine["address"]] }
    direct = given.values_at(*NO_PROXY).compact.flat_map { |list| list.split(",") } + ["localhost", "127.0.0.1", @data["network"], *own]
    given.merge(NO_PROXY.to_h { |name| [name, direct.uniq.join(",")] })
  end

  # Raises Invalid if machines that exist would have to lose a role: it would go on running there. Nor does data move
  # between a role on one machine and the same role on several.
  def check_existing(names = before.fetch("machines", {}).keys)
    former = before.fetch("machines", {}).slice(*names)
    former.each do |name, machine|
      lost = machine["roles"] - @machines.fetch(name, machine)["roles"]
      next if lost.empty?

      raise Invalid, "#{file}: machines.#{name}: without #{lost.join(', ')}, which would go on running there. " \
                     "Restore it, or call `vagrant destroy -f #{name}` first"
    end
    ROLES.select { |_, role| role["machines"] == "majority" }.each_key do |role|
      had = former.select { |_, machine| machine["roles"].include?(role) }.keys
      next if had.empty? || (had.size > 1) == several?(role)

      raise Invalid, "#{file}: the role #{role} on #{with_role(role).keys.join(', ')} is not allowed while machines exist that had it on " \
                     "#{had.join(', ')}: one is not a cluster. Call `vagrant destroy -f` first"
    end
  end

  # Whether a move to another broker has started, and its end was not observed yet.
  def moving? = File.exist?(state("moving"))

  def moved = FileUtils.rm_f(state("moving"))

  # Writes the file atomically, with mode 0600 from the first byte on.
  def write(path, object) = write_text(path, "#{JSON.pretty_generate(object)}\n")

  # Writes the file atomically, with its mode from the first byte on.
  def write_text(path, text, mode: 0o600)
    FileUtils.mkdir_p(File.dirname(path), mode: 0o700)
    part = "#{path}.#{Process.pid}"
    File.write(part, text, perm: mode)
    File.rename(part, path)
  end

  private

  # The path of the description, as the user knows it.
  def file = @file.delete_prefix("#{@root}/")

  def read(path) = File.exist?(path) ? parse(path) : {}

  def parse(path)
    JSON.parse(File.read(path))
  rescue JSON::ParserError => e
    raise Invalid, "#{path} is not JSON: #{e.message.lines.first.strip}"
  end

  def secret(name)
    return SecureRandom.urlsafe_base64(32, true) if name == "fernet_key"

    SecureRandom.alphanumeric(name.end_with?("_password") ? 32 : 86) # 86: 512 bits, as HS512 requires
  end

  # lab.json, overridden by earlier choices, overridden by the environment.
  def choose(data)
    @choices = read(state("choices.json"))
    @chosen = CHOICES.reject { |variable, _| ENV[variable].to_s.empty? }.invert
    @chosen.each { |key, variable| @choices[key] = converted(key, ENV[variable], data[key]) }
    # The earlier factor was for the machines of the other provider.
    other = ![nil, data.merge(@choices)["provider"]].include?(before["provider"])
    @choices.delete("time_factor") if other && !@chosen.key?("time_factor")
    data.merge(@choices)
  end

  # Returns the text of an environment variable as lab.json would have it. A relative path starts at the caller's folder.
  def converted(key, text, default)
    return text == NO_DAGS ? "" : File.absolute_path(text) if key == "dags"

    default.is_a?(Integer) ? Integer(text, 10, exception: false) || text : text
  end

  # The lab as the last `vagrant up` or `vagrant provision` resolved it.
  def before = read(state("lab.json"))

  # Validates the part of JSON Schema that lab.schema.json uses; `make lint` uses a complete validator.
  def check_schema(value, schema, path = "", defs = schema["$defs"])
    schema = defs.fetch(schema["$ref"].delete_prefix("#/$defs/")).merge(schema) if schema["$ref"]
    complaint = complaint(value, schema)
    raise Invalid, "#{place(path)}: #{complaint}" if complaint

    case value
    when Hash
      value.each do |key, item|
        known = schema.fetch("properties", {})[key] || schema["additionalProperties"]
        check_schema(item, known, path.empty? ? key : "#{path}.#{key}", defs) if known.is_a?(Hash)
      end
    when Array
      value.each_with_index { |item, index| check_schema(item, schema["items"], "#{path}[#{index}]", defs) }
    end
  end

  TYPES = { "object" => Hash, "array" => Array, "string" => String, "integer" => Integer }.freeze

  def complaint(value, schema)
    shown = value.to_json
    return "#{shown} is not allowed; allowed: #{schema['enum'].join(', ')}" if schema["enum"]&.none?(value)
    return "#{shown} is not of type #{schema['type']}" unless value.is_a?(TYPES.fetch(schema["type"]))

    case value
    when Hash then complaint_of_keys(value, schema)
    when Array
      return "must have #{schema['minItems']} or more entries" if value.size < schema.fetch("minItems", 0)
      return "#{shown} has an entry twice" if schema["uniqueItems"] && value.uniq != value
    when String
      return "#{shown} does not fit #{schema['pattern']}" if schema["pattern"] && !value.match?(schema["pattern"])
    when Integer
      allowed = schema.fetch("minimum", value)..schema.fetch("maximum", nil)
      return "#{shown} is not allowed; allowed: #{allowed.begin} #{allowed.end ? "to #{allowed.end}" : 'or more'}" unless allowed.cover?(value)
    end
  end

  def complaint_of_keys(value, schema)
    missing = schema.fetch("required", []) - value.keys
    return "#{missing.join(', ')} missing" if missing.any?

    unknown = schema["additionalProperties"] == false ? value.keys - schema["properties"].keys : []
    return "unknown key #{unknown.join(', ')}; allowed: #{schema['properties'].keys.join(', ')}" if unknown.any?

    names = schema.dig("propertyNames", "pattern")
    bad = names ? value.keys.grep_v(Regexp.new(names)) : []
    "the name #{bad.first.inspect} does not fit #{names}" if bad.any?
  end

  def check_machines
    network = ip(@data["network"], "network")
    taken = { network.to_range.first.succ.to_s => "the host" }
    @data["machines"].each do |name, machine|
      address = machine["address"]
      at = "#{file}: machines.#{name}"
      unless network.include?(ip(address, "machines.#{name}.address"))
        raise Invalid, "#{at}.address: #{address} is outside the lab's network #{@data['network']}"
      end
      raise Invalid, "#{at}.address: #{address} is already used by #{taken[address]}; give each machine its own" if taken[address]

      taken[address] = name
      next if machine.key?("queues") == machine["roles"].include?("worker")

      raise Invalid, "#{at}: a machine has queues if, and only if, it has the role worker"
    end
  end

  def ip(text, path)
    IPAddr.new(text)
  rescue IPAddr::Error
    raise Invalid, "#{file}: #{path}: #{text} is not an IPv4 address or network"
  end

  def check_workers(workers)
    return if workers.any? && @data["workers"] <= workers.size

    raise Invalid, "#{place('workers')}: #{@data['workers']} is not allowed; allowed: 1 to #{workers.size}, " \
                   "the machines with the role worker in #{file}"
  end

  def check_created(workers)
    created = @data["machines"].keys.select { |name| Dir.glob("#{name}/*/id", base: File.join(@root, ".vagrant/machines")).any? }
    check_layout(created) if created.any?
    # Vagrant forgets a machine that is not defined any more, and leaves it running.
    lost = workers.drop(@data["workers"]) & created
    return if lost.empty?

    # Vagrant defines them only if `workers` includes them.
    raise Invalid, "#{place('workers')}: #{@data['workers']} would leave #{lost.join(', ')} without an owner. " \
                   "Call `WORKERS=#{workers.index(lost.last) + 1} vagrant destroy -f #{lost.join(' ')}` first"
  end

  # A database or a queue server on one machine does not become a member of a cluster, or the reverse.
  def check_layout(created)
    former = before["layout"]
    return if [nil, @data["layout"]].include?(former)

    raise Invalid, "#{place('layout')}: #{@data['layout']} is not allowed while machines exist that were created with LAYOUT=#{former}: " \
                   "#{created.join(', ')}. Call `LAYOUT=#{former} vagrant destroy -f` first, or keep them with LAYOUT=#{former}"
  end

  # Lets the layout replace what it says of the machines.
  def arrange
    layouts = @data["layouts"]
    chosen = layouts[@data["layout"]]
    raise Invalid, "#{place('layout')}: #{@data['layout'].to_json} is not allowed; allowed: #{layouts.keys.join(', ')}" unless chosen

    unknown = chosen.keys - @data["machines"].keys
    raise Invalid, "#{file}: layouts.#{@data['layout']}: no machine #{unknown.join(', ')}; allowed: #{@data['machines'].keys.join(', ')}" if unknown.any?

    chosen.each { |name, machine| @data["machines"][name] = @data["machines"][name].merge(machine) }
  end

  def check_roles
    needed = ROLES.reject { |_, role| role["optional"] }.keys
    missing = needed.select { |role| with_role(role).empty? }
    raise Invalid, "#{file}: no machine has the role #{missing.join(', ')}; a lab needs each of: #{needed.join(', ')}" if missing.any?

    check_address if several?("load_balancer")
    ROLES.each { |name, role| check_count(name, role["machines"], with_role(name).keys) }
    several = several?("database")
    check_with_database("consensus", several, with_role("database").keys, "they agree there which of them is the primary")
    check_with_database("local_proxy", several, @machines.keys, "it leads every client to the primary")
  end

  def check_address
    address = @data["address"]
    unless IPAddr.new(@data["network"]).include?(ip(address, "address"))
      raise Invalid, "#{file}: address: #{address} is outside the lab's network #{@data['network']}; several load balancers share it"
    end

    taken = @data["machines"].find { |_, machine| machine["address"] == address }&.first
    raise Invalid, "#{file}: address: #{address} is already used by #{taken}; several load balancers share an address of their own" if taken
  end

  def check_count(role, allowed, names)
    return if allowed == "any" || names.size < 2 || (allowed == "majority" && names.size.odd?)

    raise Invalid, "#{file}: the role #{role} is on #{names.join(', ')}; allowed: #{allowed == 'one' ? 'one machine' : MAJORITY}"
  end

  # The roles that a database on several machines needs, and that have no use with one.
  def check_with_database(role, several, machines, why)
    names = with_role(role).keys
    if several && role == "consensus" && names.size < 3
      raise Invalid, "#{file}: the role consensus is on #{names.empty? ? 'no machine' : names.join(', ')}; a database on " \
                     "#{machines.join(', ')} needs it on three or more: #{why}"
    end
    missing = role == "consensus" || !several ? [] : machines - names
    raise Invalid, "#{file}: #{missing.join(', ')} without the role #{role}; a database on several machines needs it on all: #{why}" if missing.any?
    return if several || names.empty?

    raise Invalid, "#{file}: the role #{role} is on #{names.join(', ')}; allowed: no machine, while the database is on one"
  end

  def check_ports
    @machines.each do |name, machine|
      taken = { SSH => "sshd" }
      @data["ports"].each do |service, port|
        listens = LISTENS.fetch(service)
        next unless machine["roles"].include?(listens) && Lab.ports(role(listens)).include?(service)

        if taken[port]
          raise Invalid, "#{file}: ports.#{service}: #{port} is not allowed: on #{name} it is already used by " \
                         "#{taken[port]}; give each service its own"
        end

        taken[port] = service
      end
    end
    taken = {}
    @data["forwarded_ports"].each do |service, port|
      if taken[port]
        raise Invalid, "#{file}: forwarded_ports.#{service}: #{port} is not allowed: it is already used by " \
                       "#{taken[port]}; give each service its own"
      end

      taken[port] = service
    end
  end

  # Other values would make the scheduler fail healthy tasks.
  def check_timings
    profiles = @data["timing_profiles"]
    timings = profiles[@data["timings"]]
    raise Invalid, "#{place('timings')}: #{@data['timings'].to_json} is not allowed; allowed: #{profiles.keys.join(', ')}" unless timings

    at = "#{file}: timing_profiles.#{@data['timings']}"
    least = { "heartbeat_timeout" => [4 * timings["heartbeat_interval"], "four times heartbeat_interval: a task may miss a few heartbeats"],
              "scheduler_health_threshold" => [15, "three heartbeats of a scheduler, which are 5 s apart"],
              "queued_timeout" => [[120, timings["heartbeat_timeout"]].max, "a task's token expires after this time: it must outlast a worker's absence"] }
    least.each do |key, (seconds, why)|
      raise Invalid, "#{at}.#{key}: #{timings[key]} is not allowed; allowed: #{seconds} or more (#{why})" if timings[key] < seconds
    end
    check_parallelism
  end

  def check_parallelism
    schedulers = with_role("scheduler").size
    workers = with_role("worker").size
    slots = workers * @data["worker_concurrency"]
    return if schedulers * @data["parallelism"] >= slots

    raise Invalid, "#{file}: parallelism: #{@data['parallelism']} is not allowed; allowed: #{(slots.to_f / schedulers).ceil} or more " \
                   "(#{schedulers} schedulers must fill the #{slots} slots of #{workers} workers)"
  end
end
