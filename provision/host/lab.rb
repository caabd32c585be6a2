# The lab as the Vagrantfile sees it: config/lab.json with the choices of this checkout, checked before any
# machine is touched, and the one document that each machine is given. Standard library only: the host may
# have nothing but Vagrant.

require "fileutils"
require "ipaddr"
require "json"
require "securerandom"

class Lab
  # A mistake of the user's, told in full: the value, the place, what is allowed, the cure.
  class Invalid < StandardError; end

  # Environment variables that choose something, and the key of lab.json that each overrides.
  CHOICES = {
    "BROKER" => "broker", "PROVIDER" => "provider", "WORKERS" => "workers", "TIMINGS" => "timings", "TIME_FACTOR" => "time_factor"
  }.freeze

  # Which roles need which secret: a machine is given no other.
  SECRETS = {
    "postgresql_password" => %w[database flower api_server scheduler dag_processor triggerer worker],
    "redis_password" => %w[queue flower api_server scheduler worker],
    "rabbitmq_password" => %w[queue flower api_server scheduler worker],
    "airflow_admin_password" => %w[database],
    "flower_password" => %w[flower load_balancer],
    "fernet_key" => %w[database api_server scheduler dag_processor triggerer],
    "api_secret_key" => %w[database api_server triggerer worker],
    "jwt_secret" => %w[api_server scheduler]
  }.freeze

  # What one machine has, and no other: where it is, is where all the others look for it.
  SINGLE = %w[database queue load_balancer flower].freeze

  # The role that listens on each port of lab.json. Both queue servers run while the lab moves from one to the other.
  LISTENS = {
    "postgresql" => "database", "redis" => "queue", "rabbitmq" => "queue", "rabbitmq_management" => "queue",
    "load_balancer" => "load_balancer", "flower" => "load_balancer", "flower_local" => "flower",
    "api_server" => "api_server", "worker_log_server" => "worker", "triggerer_log_server" => "triggerer"
  }.freeze
  SSH = 22

  # What a corporate network sets on the host and its guests need too.
  PROXIES = %w[http_proxy https_proxy HTTP_PROXY HTTPS_PROXY].freeze
  NO_PROXY = %w[no_proxy NO_PROXY].freeze
  ENVIRONMENT = (PROXIES + NO_PROXY + %w[PIP_INDEX_URL PIP_EXTRA_INDEX_URL UV_DEFAULT_INDEX UV_INDEX]).freeze
  CERTIFICATES = "/usr/local/share/ca-certificates/*.crt".freeze

  attr_reader :root, :data, :machines

  # `file`: another description in the form of config/lab.json; `folder`: what is remembered of it, its secrets too.
  def initialize(root, file: File.join(root, "config/lab.json"), folder: File.join(root, ".lab"))
    @root = root
    @file = file
    @folder = folder
    @data = choose(parse(file))
    check_schema(@data, JSON.parse(File.read(File.join(root, "config/lab.schema.json"))))
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

  # Where a value stands, in the user's terms.
  def place(path)
    return @chosen[path] if @chosen.key?(path)
    return "#{CHOICES.key(path)}, chosen earlier (#{state('choices.json').delete_prefix("#{@root}/")})" if @choices.key?(path)

    "#{file}: #{path.empty? ? 'the file' : path}"
  end

  def with_role(role) = @machines.select { |_, machine| machine["roles"].include?(role) }

  # Remembers the choices, writes the lab with them in it for whoever asks later, and what each machine is given; secrets
  # are made where there are none yet.
  def save
    FileUtils.mkdir_p(state, mode: 0o700)
    broker = before["broker"]
    FileUtils.touch(state("moving")) if broker && broker != @data["broker"]
    write(state("choices.json"), @choices)
    write(state("lab.json"), @data)
    secrets = read(state("secrets.json"))
    SECRETS.each_key { |name| secrets[name] ||= secret(name) }
    write(state("secrets.json"), secrets)
    @machines.each do |name, machine|
      document = JSON.pretty_generate(document(name, machine["roles"], secrets))
      # One file to upload: it brings the document along and removes itself.
      script = "#!/bin/sh\nrm -f \"$0\"\nexec sh /vagrant/provision/bootstrap.sh <<'DOCUMENT'\n#{document}\nDOCUMENT\n"
      write_text(state("machines", "#{name}.sh"), script)
    end
  end

  # Makes every wait so many times longer, unless the user has said how many: with TIME_FACTOR, or in lab.json.
  def slow_down(factor)
    @data["time_factor"] = factor if @data["time_factor"] == 1 && !@choices.key?("time_factor")
  end

  # What provisioning is given: the lab, the machine's name (none: an image for all of them), its secrets and
  # what the host's network needs.
  def document(name, roles = [], secrets = {})
    {
      "machine" => name,
      "lab" => @data,
      "secrets" => secrets.select { |key, _| SECRETS.fetch(key, []).intersect?(roles) },
      "environment" => environment,
      "certificates" => Dir[CERTIFICATES].sort.to_h { |path| [File.basename(path), File.read(path)] }
    }
  end

  # Of ENVIRONMENT what the host has. The proxy is not for the lab's own addresses; not all programs know networks.
  def environment
    given = ENV.slice(*ENVIRONMENT)
    return given unless given.keys.intersect?(PROXIES)

    own = @data["machines"].flat_map { |name, machine| [name, machine["address"]] }
    direct = given.values_at(*NO_PROXY).compact.flat_map { |list| list.split(",") } + ["localhost", "127.0.0.1", @data["network"], *own]
    given.merge(NO_PROXY.to_h { |name| [name, direct.uniq.join(",")] })
  end

  # Whether the lab was told to change its broker, and has not been seen to have done so.
  def moving? = File.exist?(state("moving"))

  def moved = FileUtils.rm_f(state("moving"))

  # Of mode 0600 from the first byte on, and never half written.
  def write(path, object) = write_text(path, "#{JSON.pretty_generate(object)}\n")

  private

  # The description as the user calls it.
  def file = @file.delete_prefix("#{@root}/")

  def write_text(path, text)
    FileUtils.mkdir_p(File.dirname(path), mode: 0o700)
    part = "#{path}.#{Process.pid}"
    File.write(part, text, perm: 0o600)
    File.rename(part, path)
  end

  def read(path) = File.exist?(path) ? parse(path) : {}

  def parse(path)
    JSON.parse(File.read(path))
  rescue JSON::ParserError => e
    raise Invalid, "#{path} is not JSON: #{e.message.lines.first.strip}"
  end

  def secret(name)
    return SecureRandom.urlsafe_base64(32, true) if name == "fernet_key"

    SecureRandom.alphanumeric(name.end_with?("_password") ? 32 : 86) # 86: 512 bits, as HS512 wants
  end

  # lab.json, overridden by what was chosen earlier, overridden by the environment.
  def choose(data)
    @choices = remembered(data)
    @chosen = CHOICES.reject { |variable, _| ENV[variable].to_s.empty? }.invert
    @chosen.each do |key, variable|
      @choices[key] = data[key].is_a?(Integer) ? Integer(ENV[variable], 10, exception: false) || ENV[variable] : ENV[variable]
    end
    # It was that of the other provider's machines.
    other = ![nil, data.merge(@choices)["provider"]].include?(before["provider"])
    @choices.delete("time_factor") if other && !@chosen.key?("time_factor")
    data.merge(@choices)
  end

  # What was chosen earlier. A version that did not write the resolved lab remembered every value, chosen or not.
  def remembered(data)
    choices = read(state("choices.json"))
    return choices if File.exist?(state("lab.json"))

    choices.delete("time_factor") if choices["provider"] == "libvirt" # that of emulation, which is found out again
    choices.reject { |key, value| value == data[key] }
  end

  # The lab as the last `vagrant up` or `vagrant provision` had it.
  def before = read(state(File.exist?(state("lab.json")) ? "lab.json" : "choices.json"))

  # The part of JSON Schema that lab.schema.json uses; `make lint` checks the file with a full validator.
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
      raise Invalid, "#{at}.address: #{address} is already #{taken[address]}'s; give each machine its own" if taken[address]

      taken[address] = name
      next if machine.key?("queues") == machine["roles"].include?("worker")

      raise Invalid, "#{at}: a machine has queues if, and only if, it has the role worker"
    end
  end

  def ip(text, path)
    IPAddr.new(text)
  rescue IPAddr::Error
    raise Invalid, "#{file}: #{path}: #{text} is no IPv4 address or network"
  end

  def check_workers(workers)
    return if workers.any? && @data["workers"] <= workers.size

    raise Invalid, "#{place('workers')}: #{@data['workers']} is not allowed; allowed: 1 to #{workers.size}, " \
                   "the machines with the role worker in #{file}"
  end

  # Vagrant would forget a machine that is no longer defined, and leave it running.
  def check_created(workers)
    lost = workers.drop(@data["workers"]).select { |name| Dir.glob("#{name}/*/id", base: File.join(@root, ".vagrant/machines")).any? }
    return if lost.empty?

    # They are defined only where the number includes them.
    raise Invalid, "#{place('workers')}: #{@data['workers']} would leave #{lost.join(', ')} without an owner: " \
                   "`WORKERS=#{workers.index(lost.last) + 1} vagrant destroy -f #{lost.join(' ')}` first"
  end

  def check_roles
    roles = @machines.values.flat_map { |machine| machine["roles"] }
    needed = SECRETS.values.flatten.uniq
    missing = needed - roles
    raise Invalid, "#{file}: no machine has the role #{missing.join(', ')}; a lab needs each of: #{needed.join(', ')}" if missing.any?

    several = SINGLE.find { |role| with_role(role).size > 1 }
    return unless several

    raise Invalid, "#{file}: machines: the role #{several} is on #{with_role(several).keys.join(', ')}; allowed: one machine"
  end

  def check_ports
    @machines.each do |name, machine|
      taken = { SSH => "sshd" }
      @data["ports"].each do |service, port|
        next unless machine["roles"].include?(LISTENS.fetch(service))
        raise Invalid, "#{file}: ports.#{service}: #{port} is not allowed: on #{name} it is already #{taken[port]}'s; give each service its own" if taken[port]

        taken[port] = service
      end
    end
    taken = {}
    @data["forwarded_ports"].each do |service, port|
      raise Invalid, "#{file}: forwarded_ports.#{service}: #{port} is not allowed: it is already #{taken[port]}'s; give each service its own" if taken[port]

      taken[port] = service
    end
  end

  # What must fit, or a healthy task is taken for a lost one.
  def check_timings
    profiles = @data["timing_profiles"]
    timings = profiles[@data["timings"]]
    raise Invalid, "#{place('timings')}: #{@data['timings'].to_json} is not allowed; allowed: #{profiles.keys.join(', ')}" unless timings

    at = "#{file}: timing_profiles.#{@data['timings']}"
    least = { "heartbeat_timeout" => [4 * timings["heartbeat_interval"], "four of heartbeat_interval: a task may miss a few"],
              "scheduler_health_threshold" => [15, "three of a scheduler's heartbeats, which are 5 s apart"],
              "queued_timeout" => [[120, timings["heartbeat_timeout"]].max, "a task's token lives no longer: it must outlast a worker's absence"] }
    least.each do |key, (seconds, why)|
      raise Invalid, "#{at}.#{key}: #{timings[key]} is not allowed; allowed: #{seconds} or more (#{why})" if timings[key] < seconds
    end
    check_parallelism
  end

  def check_parallelism
    schedulers = with_role("scheduler").size
    workers = with_role("worker").size
    places = workers * @data["worker_concurrency"]
    return if schedulers * @data["parallelism"] >= places

    raise Invalid, "#{file}: parallelism: #{@data['parallelism']} is not allowed; allowed: #{(places.to_f / schedulers).ceil} or more " \
                   "(#{schedulers} schedulers must fill the #{places} places of #{workers} workers)"
  end
end
